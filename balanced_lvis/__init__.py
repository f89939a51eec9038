"""
Long-tailed instance segmentation with Balanced Activation, on Detectron2.

::

    from balanced_lvis import Predictor, evaluate, load_config, train

    cfg = load_config("r50_balanced_sigmoid", ["OUTPUT_DIR", "output/mine"])
    train(cfg)
    evaluate(cfg, "output/mine/model_final.pth")
    instances = Predictor(cfg, "output/mine/model_final.pth")("photo.jpg")

Importing this package registers its ROI heads with Detectron2. Without Detectron2, :mod:`balanced_lvis.priors`,
:mod:`balanced_lvis.activations`, :mod:`balanced_lvis.calibration` and :mod:`balanced_lvis.classification` still work as
plain NumPy and PyTorch.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING

# Before torch starts OpenMP: spinning threads make small convolutions up to 20 times slower on a shared CPU. A policy
# that is already set is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from . import _detectron2

if TYPE_CHECKING:
    from .api import Predictor as Predictor
    from .api import evaluate as evaluate
    from .api import train as train
    from .config import add_balanced_lvis_config as add_balanced_lvis_config
    from .config import load_config as load_config

__version__ = "0.1.0"

# Imported on first use.
_API = {
    "Predictor": "api",
    "add_balanced_lvis_config": "config",
    "evaluate": "api",
    "load_config": "config",
    "train": "api",
}

if os.environ.get(_detectron2.SKIP):  # set by commands of image classification
    pass
elif _detectron2.install():
    _detectron2.import_quietly()
    from . import evaluation, modeling  # noqa: F401
else:
    logging.getLogger(__name__).warning(_detectron2.MISSING)


def __getattr__(name: str):
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _detectron2.require()
    return getattr(importlib.import_module(f"{__name__}.{_API[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})
