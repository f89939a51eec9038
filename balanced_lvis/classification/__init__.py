"""
Long-tailed image classification on the activations, calibrations and class priors of detection.

::

    from balanced_lvis.classification import load_config, train

    cfg = load_config("classification/characters/balanced_softmax", ["OUTPUT_DIR", "output/mine"])
    results = train(cfg)
    results["accuracy"], results["few"]

Plain PyTorch and torchvision, without Detectron2.
"""

from .config import load_config
from .run import evaluate, train

__all__ = ["evaluate", "load_config", "train"]
