"""Which Detectron2 is used: the official one, the copy, or none. Each case in a process of its own."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from balanced_lvis import _detectron2
from tests.common import ROOT


def python(code: str, *paths, **environment) -> subprocess.CompletedProcess:
    path = os.pathsep.join([*map(str, paths), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


# A finder that hides packages, put in place before anything else is imported.
HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("detectron2", "LabGym"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
"""


def test_without_any_detectron2_the_import_says_what_to_install_in_two_lines():
    done = python(HIDE + "import balanced_lvis")
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 0
    assert len(lines) == 2, done.stderr
    assert "git+https://github.com/facebookresearch/detectron2" in done.stderr
    assert "LabGym" in done.stderr


def test_without_any_detectron2_priors_and_activations_work():
    code = """
import logging; logging.disable()
import torch
from balanced_lvis.activations import build_activation
from balanced_lvis.priors import ClassPrior
prior = ClassPrior(("cat", "dog"), [9, 1], 10)
print(build_activation("balanced_sigmoid", 2, prior).scores(torch.zeros(1, 3)).tolist())
assert not any(name.startswith(("detectron2", "LabGym")) for name in sys.modules)
"""
    assert python(HIDE + code).stdout == "[[0.5, 0.5, 0.0]]\n"


@pytest.mark.parametrize("name", ["config", "modeling", "engine", "evaluation"])
def test_without_any_detectron2_the_glue_says_what_to_install(name):
    done = python(HIDE + f"import balanced_lvis.{name}")
    assert done.returncode == 1
    assert "balanced_lvis needs Detectron2, and none is installed" in done.stderr.splitlines()[-2]


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A Detectron2 installed under its own name: the copy's files with its imports as the official ones have them."""
    if _detectron2.is_official():
        pytest.skip("the official Detectron2 is installed: every other test uses it")
    source = Path(importlib.import_module("detectron2").__file__).parent
    target = tmp_path_factory.mktemp("official") / "detectron2"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "projects"))
    for path in target.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("LabGym.detectron2", "detectron2"), encoding="utf-8")
    return target.parent


def test_an_installed_official_detectron2_wins(official):
    code = """
import balanced_lvis, detectron2
from detectron2.modeling import ROI_HEADS_REGISTRY
assert detectron2.__name__ == "detectron2", detectron2
assert "LongTailROIHeads" in ROI_HEADS_REGISTRY
import sys
assert not any(name.startswith("LabGym") for name in sys.modules)
"""
    done = python(code, official)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_with_the_official_detectron2_predictors_equal_its_own_and_runs_work(official):
    tests = [
        "tests/modeling/test_box_predictor.py",
        "tests/engine/test_run.py::test_training_writes_checkpoint_config_and_results",
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(official), str(ROOT)])}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_alias_hands_out_the_same_module_objects_whichever_name_comes_first():
    if _detectron2.is_official():
        pytest.skip("the official Detectron2 is installed: there is no alias")
    code = """
import sys
import LabGym.detectron2.structures
import balanced_lvis
import detectron2.modeling.roi_heads, LabGym.detectron2.modeling.roi_heads
import detectron2.projects
for name, module in list(sys.modules.items()):
    if name.startswith("detectron2"):
        assert sys.modules["LabGym." + name] is module, name
        assert module.__spec__.name == "LabGym." + name
from LabGym.detectron2.structures import Boxes as A
from detectron2.structures import Boxes as B
assert A is B
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_a_folder_that_happens_to_be_named_detectron2_is_no_detectron2(tmp_path):
    (tmp_path / "detectron2" / "docs").mkdir(parents=True)
    done = python("import balanced_lvis; from detectron2.config import get_cfg", tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_submodule_that_does_not_exist_is_an_ordinary_import_error():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("detectron2.no_such_module")


def test_importing_is_quiet():
    done = python("import balanced_lvis")
    assert (done.stdout, done.stderr) == ("", "")
