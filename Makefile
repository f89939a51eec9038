# Each target sets up what it needs. .venv is created once, and updated when a file that it depends on changes.
PYTHON     ?= python3
VENV       ?= .venv
# Any pip requirement for Detectron2. Default: the previous choice, or the pure-Python copy on PyPI, which needs no
# compiler.
DETECTRON2 ?= $(or $(shell cat $(VENV)/.detectron2 2>/dev/null),LabGym==3.1.2)
# The copy is part of another program, whose requirements Detectron2 does not need.
DETECTRON2_FLAGS = $(if $(filter LabGym%,$(DETECTRON2)),--no-deps --ignore-requires-python,--no-build-isolation)

DEVELOPMENT := pytest pytest-xdist hypothesis playwright ruff mypy types-PyYAML types-tabulate mkdocs mkdocs-material \
               mkdocstrings[python] timm

BIN   := $(VENV)/bin
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
STAMP := $(VENV)/.ready

# Set before torch starts: spinning OpenMP threads make small convolutions up to 20 times slower on shared CPUs.
export OMP_WAIT_POLICY ?= PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help setup quickstart compare classification test test-slow test-oldest soak lint types docs clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv with all dependencies; DETECTRON2="<pip requirement>" for the official Detectron2

quickstart: $(STAMP)  ## render data, train the baseline and Balanced Sigmoid, evaluate, compare: output/quick_start/
	$(BIN)/python tools/quick_start.py

compare: $(STAMP)  ## train every method with three seeds and compare them, two to three hours on two CPU cores, resumable: output/compare/
	$(BIN)/python tools/compare.py

classification: $(STAMP)  ## train image classifiers with every method, about an hour, resumable: output/classification/
	OMP_NUM_THREADS=1 $(BIN)/python tools/classification.py

test: $(STAMP)  ## run the tests but those marked slow, under 20 minutes on two cores
	$(BIN)/python -m pytest -q -m "not slow" $(PARALLEL)

test-slow: $(STAMP)  ## run the tests marked slow: kills, simulated GPUs, launchers, an installed wheel
	$(BIN)/python -m pytest -q -m slow $(PARALLEL)

test-oldest:  ## run the tests of the core on the oldest supported versions, in a second environment: .venv-oldest
	sh tests/oldest/run.sh

lint: $(STAMP)  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## check types
	$(BIN)/mypy

docs: $(STAMP)  ## build the documentation into site/, with all links and anchors checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

soak: $(STAMP)  ## kill training runs and fuzz parsers for MINUTES=60: soak.json
	OMP_NUM_THREADS=1 $(BIN)/python tools/soak.py --minutes $(or $(MINUTES),60)

clean:  ## remove environments, built pages, the quick start's output and rendered datasets; training runs stay
	rm -rf $(VENV) .venv-oldest site output/quick_start datasets/rendered_* datasets/.rendered_* *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A changed requirement, DETECTRON2 included, updates the environment.
$(STAMP): Makefile setup.py pyproject.toml requirements.txt requirements-models.txt constraints.txt $(VENV)/.detectron2
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "The pinned versions need Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "Installing torch and torchvision (about 5 GB unpacked) ..."
	$(BIN)/pip install -q -c constraints.txt torch torchvision
	$(BIN)/pip install -q -c constraints.txt -r requirements.txt opencv-python-headless $(DEVELOPMENT)
	@# lvis and tidecv require opencv-python, which needs libGL; the headless build does not. tidecv is needed by tests.
	$(BIN)/pip install -q --no-deps -c constraints.txt lvis tidecv
	@# An official Detectron2 would take precedence over the copy.
	$(if $(filter LabGym%,$(DETECTRON2)),$(BIN)/pip uninstall -q -y detectron2)
	$(BIN)/pip install -q $(DETECTRON2_FLAGS) "$(DETECTRON2)" || \
	  { rm -f $(VENV)/.detectron2; echo "$(DETECTRON2) could not be installed. Without DETECTRON2=, the pure-Python copy is installed."; exit 1; }
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	touch $@

# Rewritten only if DETECTRON2 changes, so that an unchanged choice triggers no installation.
.PHONY: FORCE
$(VENV)/.detectron2: FORCE
	@mkdir -p $(VENV)
	@echo '$(DETECTRON2)' | cmp -s - $@ || echo '$(DETECTRON2)' > $@
