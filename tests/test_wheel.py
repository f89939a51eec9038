"""The wheel in a fresh environment outside the checkout: console command, configs by name, and Python API."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from tests.common import CONFIGS, ROOT, rendered_opts

SOURCES = (
    "LICENSE", "README.md", "balanced_lvis", "balanced_lvis_cli.py", "configs", "pyproject.toml",
    "requirements-models.txt", "requirements.txt", "setup.py",
)  # fmt: skip
CONFIG = "quick_start/balanced_sigmoid"
API = """
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import balanced_lvis
from balanced_lvis import Predictor, evaluate, load_config, train

assert Path(balanced_lvis.__file__).is_relative_to(sys.prefix), balanced_lvis.__file__
config, image, *opts = sys.argv[1:]
cfg = load_config(config, opts)
results = train(cfg)
weights = Path(cfg.OUTPUT_DIR, "model_final.pth")
assert evaluate(cfg, weights) == results and results["bbox"]["AP"] >= 0

predictor = Predictor(cfg, weights, threshold=0.0)
found = predictor(image)
pixels = Image.open(image)
array = np.asarray(pixels.convert("RGB"))
assert len(found) and found.pred_masks.shape[1:] == array.shape[:2]
for same in (predictor(pixels), predictor(array, channels="RGB"), predictor(array[:, :, ::-1])):
    assert (same.scores == found.scores).all() and (same.pred_boxes.tensor == found.pred_boxes.tensor).all()
assert len(predictor.class_names) == 12
print("done")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy, as building leaves files in the source tree."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    pip(sys.executable, "wheel", "--no-build-isolation", "--wheel-dir", output, source)
    return next(output.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The bin folder of an environment with the wheel, and with the other packages of the running environment."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    pip(sys.executable, "--python", folder / "bin" / "python", "install", "--no-index", wheel)
    return folder / "bin"


def pip(python, *words):
    """With ``--no-deps`` where packages are built or installed; needs no network."""
    words = [*map(str, words), "--quiet", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run([python, "-m", "pip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def run(folder, *words) -> subprocess.CompletedProcess:
    """Outside the checkout, which is not on the path."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env["OMP_NUM_THREADS"] = "1"
    return subprocess.run([*map(str, words)], cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_it_has_the_package_and_its_configs_but_no_tests_or_tools(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"balanced_lvis/configs/{path.relative_to(CONFIGS).as_posix()}" for path in CONFIGS.rglob("*.yaml")}
    assert configs <= names and "balanced_lvis/py.typed" in names
    report = ROOT / "balanced_lvis" / "report"
    of_report = [path for folder in ("page", "vendor") for path in (report / folder).iterdir()]
    assert len(of_report) > 10 and {path.relative_to(ROOT).as_posix() for path in of_report} <= names
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"balanced_lvis", "balanced_lvis_cli.py"}


def test_commands_are_listed_without_importing_torch(environment, tmp_path):
    code = (
        "import sys, balanced_lvis_cli as cli; cli._help(); assert 'torch' not in sys.modules; print(len(cli.COMMANDS))"
    )
    assert int(run(tmp_path, environment / "python", "-c", code).stdout) >= 12
    done = run(tmp_path, environment / "balanced-lvis", "--help")
    assert done.returncode == 0 and "\n  train  " in done.stdout
    done = run(tmp_path, environment / "balanced-lvis", "trian")
    assert done.returncode == 2 and "Did you mean train?" in done.stderr


@pytest.mark.slow
def test_the_console_command_finds_configs_by_name_trains_evaluates_and_predicts(environment, rendered, tmp_path):
    command = environment / "balanced-lvis"
    opts = rendered_opts(rendered, tmp_path / "out")
    done = run(tmp_path, command, "train", "--config-file", CONFIG, "--num-gpus", 2, *opts)
    assert done.returncode == 0, done.stderr
    weights = tmp_path / "out" / "model_final.pth"
    done = run(tmp_path, command, "evaluate", "--config-file", f"{CONFIG}.yaml", "--weights", weights, *opts)
    assert done.returncode == 0, done.stderr
    results = [
        json.loads((tmp_path / "out" / name).read_text()) for name in ("results.json", "evaluation/results.json")
    ]
    assert results[0] == results[1]
    image = next(rendered.glob("val/*.jpg"))
    done = run(
        tmp_path, command, "predict", "--weights", weights, "--input", image, "--threshold", 0, "--json", "a.json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "a.json").read_text())[0]["objects"]
    done = run(tmp_path, command, "train", "--config-file", "quick_start/balanced_sigmod", *opts)
    assert done.returncode == 2 and "Similar names: quick_start/balanced_sigmoid" in done.stderr


@pytest.mark.slow
def test_the_python_api_trains_evaluates_and_predicts(environment, rendered, tmp_path):
    image = next(rendered.glob("val/*.jpg"))
    (tmp_path / "script.py").write_text(API)
    words = (CONFIG, image, *rendered_opts(rendered, tmp_path / "out"))
    done = run(tmp_path, environment / "python", "script.py", *words)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr
