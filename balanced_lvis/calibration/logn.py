"""LogN (Zhao et al., Logit Normalization for Long-tail Object Detection, IJCV 2024)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..activations.prior_module import PriorSource
from ..utils.errors import InputError
from .base import Calibration, register_calibration
from .logit_statistics import STATISTICS_SUFFIX, LogitStatistics

_REMEDY = (
    "Write the statistics of this checkpoint with `balanced-lvis collect-logits`, which saves them next to it, or set "
    "STATISTICS to their file."
)


@register_calibration("logn")
class LogN(Calibration):
    """
    The activation's scores of (z_c - (mu_c - min mu)) / sigma_c instead of z_c.

    mu_c and sigma_c are the mean and standard deviation of the logit of class c over all RoIs of training images, those
    of the background included. The logit of the background is unchanged. No class prior is needed.

    It is for softmaxes. The logits of sigmoids are negative almost everywhere, and the shift raises none. Dividing them
    by the sigma_c below 1 of a rare class then lowers its scores rather than raising them.

    Args:
        num_classes: K.
        prior: not used.
        statistics: path of the file with mu and sigma of the checkpoint, see
            :class:`~balanced_lvis.calibration.LogitStatistics`. In a config, it may be empty if the file is next to the
            checkpoint.

    Raises:
        InputError: if ``statistics`` is empty, can't be read or is of another number of classes.
    """

    families = ("softmax", "seesaw")
    of_one_classifier = True
    saved_files: ClassVar = {"statistics": STATISTICS_SUFFIX}

    def __init__(self, num_classes: int, prior: PriorSource = None, *, statistics: str = ""):
        super().__init__(num_classes, prior)
        if not statistics:
            raise InputError(f"statistics of logn is empty. {_REMEDY}")
        self.path = statistics
        self.statistics = LogitStatistics.load(statistics)
        if len(self.statistics.class_names) != num_classes:
            raise InputError(
                f"statistics of logn: {statistics!r} is of {len(self.statistics.class_names)} classes, and the model "
                f"has {num_classes}. {_REMEDY}"
            )
        self._shift: Tensor
        self._std: Tensor
        mean = self.statistics.mean
        self.register_buffer("_shift", _tensor(mean - mean.min()), persistent=False)
        self.register_buffer("_std", _tensor(self.statistics.std), persistent=False)

    def class_logits(self, class_logits):
        return (class_logits - self._shift) / self._std

    def check_classes(self, class_names, owner):
        known = self.statistics.class_names
        if tuple(class_names) != known:
            different = [(a, b) for a, b in zip(known, class_names) if a != b]
            example = f": {different[0][0]!r} in place of {different[0][1]!r}" if different else ""
            raise InputError(f"statistics of logn: {self.path!r} is of other classes than {owner}{example}. {_REMEDY}")

    @property
    def files(self):
        return {"logit statistics": self.path}


def _tensor(values: np.ndarray) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)
