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

In a config: ``MODEL.ROI_BOX_HEAD.CALIBRATION.NAME``. A calibration is not part of a checkpoint: it can be used with any
checkpoint whose activation it fits, also one that was trained without it.

================== ==================================================================================
name               paper
================== ==================================================================================
logit_adjustment   post-hoc logit adjustment (Menon et al., ICLR 2021)
norcal             NorCal (Pan et al., NeurIPS 2021)
iif                Inverse Image Frequency (Alexandridis et al., 2022)
fracal             FRACAL (Alexandridis et al., CVPR 2025)
logn               LogN (Zhao et al., IJCV 2024)
================== ==================================================================================
"""

from .base import Calibration, build_calibration, calibration_class, calibration_names, register_calibration
from .fracal import FRACAL
from .iif import IIF
from .logit_adjustment import LogitAdjustment
from .logit_statistics import LogitStatistics, StatisticsCollector
from .logn import LogN
from .norcal import NorCal

__all__ = [
    "FRACAL",
    "IIF",
    "Calibration",
    "LogN",
    "LogitAdjustment",
    "LogitStatistics",
    "NorCal",
    "StatisticsCollector",
    "build_calibration",
    "calibration_class",
    "calibration_names",
    "register_calibration",
]
