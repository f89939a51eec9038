"""Mean and standard deviation of the logit of each class on training data, for the calibration LogN."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..utils.errors import InputError
from ..utils.io import read_json, write_json
from .base import WEIGHTS_SHA256

FORMAT = "balanced_lvis logit statistics 1"
STATISTICS_SUFFIX = ".logits.json"  # of the file next to a checkpoint, in place of ".pth"


@dataclasses.dataclass(frozen=True, eq=False)
class LogitStatistics:
    """
    Statistics of the logits of one checkpoint.

    Args:
        class_names: K names.
        mean: (K,) mean of each class's logit.
        std: (K,) standard deviation, above 0.
        num_rois: number of RoIs, or of images in classification.
        weights: path of the checkpoint.
        weights_sha256: SHA-256 of that file, in hexadecimal digits; empty if unknown.

    Raises:
        InputError: if lengths differ, or a number is not finite or not positive.
    """

    class_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    num_rois: int
    weights: str = ""
    weights_sha256: str = ""

    def __post_init__(self):
        object.__setattr__(self, "class_names", tuple(map(str, self.class_names)))
        for field in ("mean", "std"):
            try:
                array = np.array(getattr(self, field), np.float64)
            except (TypeError, ValueError, OverflowError, RecursionError):
                array = np.empty(0)
            if array.shape != (len(self.class_names),) or not np.isfinite(array).all():
                raise InputError(f"LogitStatistics: {field} must be {len(self.class_names)} finite numbers.")
            array.setflags(write=False)
            object.__setattr__(self, field, array)
        if len(flat := np.flatnonzero(self.std <= 0)):
            raise InputError(
                f"LogitStatistics: the standard deviation of class {self.class_names[flat[0]]!r} is "
                f"{self.std[flat[0]]}; it must be above 0. The logit of such a class is the same for all RoIs, and "
                "can't be normalised."
            )

    def save(self, path: str | os.PathLike) -> None:
        """Write a JSON file, for :meth:`load`."""
        columns = zip(self.class_names, self.mean.tolist(), self.std.tolist())
        classes = [{"name": name, "mean": mean, "std": std} for name, mean, std in columns]
        content = {"format": FORMAT, "weights": self.weights, WEIGHTS_SHA256: self.weights_sha256}
        write_json(path, {**content, "num_rois": self.num_rois, "classes": classes}, indent=1)

    @classmethod
    def load(cls, path: str | os.PathLike) -> LogitStatistics:
        """
        Read a file that :meth:`save` wrote.

        Raises:
            InputError: if the file is missing, is not valid JSON, or has no such statistics.
        """
        path = os.fspath(path)
        content = read_json(path, "Logit statistics file", "write it again with `balanced-lvis collect-logits`")
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InputError(
                f"{path!r} has no logit statistics: its 'format' should be {FORMAT!r}. Write them with `balanced-lvis "
                "collect-logits`."
            )
        try:
            names, mean, std = ([c[key] for c in content["classes"]] for key in ("name", "mean", "std"))
            weights = str(content["weights"]), str(content.get(WEIGHTS_SHA256, ""))
            return cls(tuple(names), np.array(mean), np.array(std), int(content["num_rois"]), *weights)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"Logit statistics {path!r} are incomplete or malformed: {error!r}.") from error


class StatisticsCollector:
    """
    Running mean and variance of the logits of each class, exact over any number of batches.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int):
        self.num_rois = 0
        self._mean = torch.zeros(num_classes, dtype=torch.float64)
        self._squares = torch.zeros(num_classes, dtype=torch.float64)  # sum of squared deviations from the mean

    def add(self, class_logits: Tensor) -> None:
        """
        Args:
            class_logits: (R, K).
        """
        if not len(class_logits):
            return
        values = class_logits.detach().double()
        mean = values.mean(dim=0)
        squares = ((values - mean) ** 2).sum(dim=0)
        total = self.num_rois + len(values)
        delta = mean - self._mean.to(mean.device)
        self._squares = self._squares.to(mean.device) + squares + delta**2 * (self.num_rois * len(values) / total)
        self._mean = self._mean.to(mean.device) + delta * (len(values) / total)
        self.num_rois = total

    def statistics(self, class_names: Sequence[str], weights: str = "", weights_sha256: str = "") -> LogitStatistics:
        """
        Args:
            class_names: K names.
            weights, weights_sha256: of the checkpoint, as for :class:`LogitStatistics`.

        Raises:
            InputError: for fewer than two RoIs, or a logit that is always the same.
        """
        if self.num_rois < 2:
            raise InputError(f"Logit statistics need at least 2 RoIs, and there were {self.num_rois}; use more images.")
        variance = self._squares / (self.num_rois - 1)
        mean, std = self._mean.cpu().numpy(), variance.sqrt().cpu().numpy()
        return LogitStatistics(tuple(class_names), mean, std, self.num_rois, weights, weights_sha256)
