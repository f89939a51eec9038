# Each target sets up what it needs: .venv is made once and reused until a file that it was made from changes.
PYTHON     ?= python3
VENV       ?= .venv
# Any pip requirement for Detectron2; by default the one chosen before, or its pure-Python copy on PyPI, which needs
# no compiler.
DETECTRON2 ?= $(or $(shell cat $(VENV)/.detectron2 2>/dev/null),LabGym==3.1.2)
# The copy declares the needs of the program that it is part of, none of which Detectron2 has.
DETECTRON2_FLAGS = $(if $(filter LabGym%,$(DETECTRON2)),--no-deps --ignore-requires-python,--no-build-isolation)

BIN   := $(VENV)/bin
STAMP := $(VENV)/.ready

# Set before torch starts: spinning OpenMP threads make small convolutions up to 20 times slower on shared CPUs.
export OMP_WAIT_POLICY ?= PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help setup quickstart compare test soak lint clean

help:  ## this text
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv with everything in it; DETECTRON2="<pip requirement>" for the official Detectron2

quickstart: $(STAMP)  ## render data, train the baseline and Balanced Sigmoid, evaluate, compare: output/quick_start/
	$(BIN)/python tools/quick_start.py

compare: $(STAMP)  ## train every method with three seeds and compare them, about an hour, resumable: output/compare/
	$(BIN)/python tools/compare.py

test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

soak: $(STAMP)  ## kill trainings and fuzz parsers for MINUTES=60: soak.json
	OMP_NUM_THREADS=1 $(BIN)/python tools/soak.py --minutes $(or $(MINUTES),60)

lint: $(STAMP)  ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:  ## remove .venv, the quick start's output and rendered data sets; trainings stay
	rm -rf $(VENV) output/quick_start datasets/rendered_* datasets/.rendered_* *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A changed requirement installs what changed; another DETECTRON2 is a changed requirement too.
$(STAMP): Makefile setup.py pyproject.toml requirements.txt requirements-models.txt constraints.txt $(VENV)/.detectron2
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "The pinned versions need Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "Installing torch and torchvision (about 5 GB unpacked) ..."
	$(BIN)/pip install -q -c constraints.txt torch torchvision
	$(BIN)/pip install -q -c constraints.txt -r requirements.txt opencv-python-headless pytest pytest-xdist hypothesis ruff
	@# lvis asks for opencv-python, whose libGL a bare server lacks; the headless build serves as well.
	$(BIN)/pip install -q --no-deps -c constraints.txt lvis
	@# An official Detectron2 would win over the copy that is asked for.
	$(if $(filter LabGym%,$(DETECTRON2)),$(BIN)/pip uninstall -q -y detectron2)
	$(BIN)/pip install -q $(DETECTRON2_FLAGS) "$(DETECTRON2)" || \
	  { rm -f $(VENV)/.detectron2; echo "$(DETECTRON2) could not be installed; without DETECTRON2= the copy is."; exit 1; }
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	touch $@

# Rewritten only when the wish changes, so that it is no reason to install again.
.PHONY: FORCE
$(VENV)/.detectron2: FORCE
	@mkdir -p $(VENV)
	@echo '$(DETECTRON2)' | cmp -s - $@ || echo '$(DETECTRON2)' > $@
