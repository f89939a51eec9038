"""
The tests that are marked ``gpu``, on the simulated device and in one process, as torch takes seconds to start.

Of the methods, those train that differ in what runs on the device; the losses of all are tested on it alone. With all
methods: ``python -m tests.simulated_cuda -m pytest -m gpu tests/test_gpu.py``.
"""

import xml.etree.ElementTree as ElementTree

import pytest

from tests.simulated_cuda.running import reason_to_skip, run_simulated
from tests.simulated_cuda.state import ROOT
from tests.test_gpu import FIRST_STAGES, SECOND_STAGES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(reason_to_skip() is not None, reason=reason_to_skip() or ""),
]
TRAINED = {
    "balanced_sigmoid",  # a prior, float16, averaged weights, clipped gradients
    "federated",  # random classes, float16, accumulated
    "seesaw",  # K+2 outputs, a cosine classifier, state, bfloat16
    "balms",  # a bilevel step, float32
    "decoupled_loce",  # state in a second stage, float16, accumulated
}


def not_trained() -> list[str]:
    """Options of pytest that leave out the other methods."""
    tests = {
        "test_a_method_trains_is_evaluated_and_resumes": FIRST_STAGES,
        "test_a_second_stage_changes_its_classifier_is_evaluated_and_resumes": SECOND_STAGES,
    }
    assert {*FIRST_STAGES, *SECOND_STAGES} >= TRAINED
    return [
        f"--deselect=tests/test_gpu.py::{test}[{method}]"
        for test, methods in tests.items()
        for method in {*methods} - TRAINED
    ]


def test_the_tests_for_gpus_pass_on_the_simulated_device(tmp_path):
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    report = tmp_path / "report.xml"
    pytest_options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "-p", "no:xdist", "--junit-xml", report]
    pytest_options += [*not_trained(), "--basetemp", tmp_path / "tmp"]
    done = run_simulated("-m", "pytest", *pytest_options, *files).checked()
    cases = list(ElementTree.parse(report).iter("testcase"))
    assert len(cases) >= len(files) > 5, done.stdout
    skips = [skip for case in cases for skip in case.iter("skipped") if skip.get("type") != "pytest.xfail"]
    assert not [skip.get("message") for skip in skips]
