"""Paths and overrides that several test modules share."""

import importlib.util
import sys
from pathlib import Path

from balanced_lvis.experiments.small_rendered import SMALL_RENDERED, override_words

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
sys.path.append(str(ROOT / "tools"))  # whose scripts import modules next to them
# Real annotations and photographs, beside the checkout on the developers' machines; tests that use them say so.
SHARED_DATA = ROOT.parent / "shared" / "data"
SHARED_CASES = ROOT.parent / "shared" / "cases"


def load_tool(name: str):
    """The module that holds the command line of a script in tools/."""
    spec = importlib.util.spec_from_file_location(f"{name}_tool", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return sys.modules[module.main.__module__]


def rendered_opts(root, output) -> list[str]:
    """Overrides that put a quick-start config on the ``rendered`` fixture's data, with a model for seconds."""
    own = {"DATASETS.RENDERED.ROOT": root, "MODEL.DEVICE": "cpu", "SOLVER.MAX_ITER": 4, "OUTPUT_DIR": output}
    return override_words({**SMALL_RENDERED, **own})
