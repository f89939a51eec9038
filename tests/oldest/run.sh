#!/bin/sh
# Runs the tests of the core on the oldest supported versions (constraints.txt), in .venv-oldest: make test-oldest.
set -eu
cd "$(dirname "$0")/../.."
venv=.venv-oldest
constraints=tests/oldest/constraints.txt
export OMP_WAIT_POLICY=PASSIVE PIP_DISABLE_PIP_VERSION_CHECK=1

python=""
for candidate in python3.10 "$HOME"/.pyenv/versions/3.10.*/bin/python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "make test-oldest: Python 3.10, the oldest supported version, was not found; it is skipped. Install python3.10."
    exit 0
fi

install() {
    "$venv/bin/pip" install -q -c $constraints "$@" || {
        echo "make test-oldest: the oldest supported versions could not be installed (see above): check the network" \
            "and the 5 GB of disk space that they need, then delete $venv and try again."
        exit 1
    }
}

if ! cmp -s $constraints $venv/.ready; then
    test -x $venv/bin/pip || "$python" -m venv $venv
    install torch torchvision
    install -r requirements.txt opencv-python-headless pytest pytest-xdist hypothesis
    install --no-deps lvis
    install --no-deps --ignore-requires-python LabGym
    cp $constraints $venv/.ready
fi

PYTHONPATH=. "$venv/bin/python" -m pytest -q -n 2 --dist loadfile -m "not slow" -p no:cacheprovider \
    tests/activations tests/classification tests/config tests/meta tests/modeling tests/priors tests/data/test_samplers.py \
    tests/evaluation/test_lvis_evaluator.py tests/engine/test_step.py tests/engine/test_resume.py \
    tests/engine/checkpoints/test_file.py tests/engine/processes/test_launch.py
