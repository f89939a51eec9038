"""Paths and overrides that several test modules share."""

import importlib.util
import sys
from pathlib import Path

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
    pairs = {
        "DATASETS.RENDERED.ROOT": root,
        "DATASETS.RENDERED.NUM_CLASSES": 12,
        "DATASETS.RENDERED.TRAIN_IMAGES": 24,
        "DATASETS.RENDERED.VAL_IMAGES": 12,
        "DATASETS.RENDERED.TEST_IMAGES": 4,
        "DATASETS.RENDERED.IMAGE_SIZE": (96, 96),
        "DATASETS.RENDERED.OBJECTS_PER_IMAGE": 3,
        "DATASETS.RENDERED.OBJECT_SCALE": (0.16, 0.42),
        "MODEL.ROI_HEADS.NUM_CLASSES": 12,
        "MODEL.DEVICE": "cpu",
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 4,
        "SOLVER.WARMUP_ITERS": 1,
        "OUTPUT_DIR": output,
    }
    return [str(word) for pair in pairs.items() for word in pair]
