"""All tests that are marked ``gpu``, on the simulated device and in one process, as torch takes seconds to start."""

import xml.etree.ElementTree as ElementTree

import pytest

from tests.simulated_cuda.running import reason_to_skip, run_simulated
from tests.simulated_cuda.state import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(reason_to_skip() is not None, reason=reason_to_skip() or ""),
]


def test_the_tests_for_gpus_pass_on_the_simulated_device(tmp_path):
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    report = tmp_path / "report.xml"
    pytest_options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "-p", "no:xdist", "--junit-xml", report]
    done = run_simulated("-m", "pytest", *pytest_options, "--basetemp", tmp_path / "tmp", *files).checked()
    cases = list(ElementTree.parse(report).iter("testcase"))
    assert len(cases) >= len(files) > 5, done.stdout
    skips = [skip for case in cases for skip in case.iter("skipped") if skip.get("type") != "pytest.xfail"]
    assert not [skip.get("message") for skip in skips]
