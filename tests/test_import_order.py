"""Imports between the folders of the package run one way, as CONTRIBUTING.md describes it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.common import ROOT

# Each folder imports from earlier lines only.
ORDER = (
    ("utils",),
    ("untrusted", "priors", "console", "config_files"),
    ("activations", "lazy_config"),
    ("calibration", "meta"),
    ("data",),
    ("modeling", "evaluation", "drawing"),
    ("config",),
    ("analysis",),
    ("engine",),
    ("prediction", "report"),
    ("experiments",),
    ("classification",),
    ("commands",),
)
RANK = {folder: rank for rank, folders in enumerate(ORDER) for folder in folders}
WITHOUT_DETECTRON2 = ("untrusted", "priors", "activations", "calibration", "meta", "config_files", "classification")
PACKAGE = ROOT / "balanced_lvis"


def imported(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, in functions, too."""
    parts = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = parts[: len(parts) - node.level + 1] if node.level else ()
            module = ".".join((*above, *filter(None, [node.module])))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_every_folder_has_its_place():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(RANK)


@pytest.mark.parametrize("folder", RANK)
def test_imports_run_one_way(folder):
    for path in (PACKAGE / folder).rglob("*.py"):
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == PACKAGE.name and parts[1] not in (folder, "_detectron2", "__version__"):
                assert RANK[parts[1]] < RANK[folder], f"{path.relative_to(ROOT)} imports {name}"
            assert parts[0] not in ("benchmarks", "gpu_check", "soak", "tests"), f"{path.relative_to(ROOT)}: {name}"


@pytest.mark.parametrize("folder", WITHOUT_DETECTRON2)
def test_formulas_need_no_detectron2(folder):
    found = [name for path in (PACKAGE / folder).rglob("*.py") for name in imported(path)]
    assert found and not [name for name in found if "detectron2" in name]
