"""
Calibrations: test-time scores of a trained classifier, corrected without training.

Plain PyTorch, without Detectron2::

    from balanced_lvis.activations import build_activation
    from balanced_lvis.calibration import build_calibration
    from balanced_lvis.priors import ClassPrior

    prior = ClassPrior(("cat", "dog"), image_count=[90, 10], num_images=100)
    activation = build_activation("softmax", num_classes=2)
    calibration = build_calibration("logit_adjustment", num_classes=2, prior=prior, tau=1.0)
    scores = calibration.scores(activation, logits)  # logits (R, K+1), scores (R, K+1)

In a config: ``MODEL.ROI_BOX_HEAD.CALIBRATION.NAME``. A calibration is not part of a checkpoint: it fits every
checkpoint whose activation is of one of its families, also one that was trained without it.

================== ==================================================================================
name               paper
================== ==================================================================================
logit_adjustment   post-hoc logit adjustment (Menon et al., ICLR 2021)
================== ==================================================================================
"""

from .base import Calibration, build_calibration, calibration_class, calibration_names, register_calibration
from .logit_adjustment import LogitAdjustment

__all__ = [
    "Calibration",
    "LogitAdjustment",
    "build_calibration",
    "calibration_class",
    "calibration_names",
    "register_calibration",
]
