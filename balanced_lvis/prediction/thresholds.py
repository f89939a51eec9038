"""Score thresholds of each class, as an analysis writes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..utils.errors import InputError
from ..utils.io import read_json

_WRITE = "write one with `balanced-lvis analyze-results RESULTS --output FOLDER`, which makes FOLDER/thresholds.json"


@dataclass(frozen=True)
class ClassThresholds:
    """
    Attributes:
        path: path of the file.
        names: K class names.
        scores: (K,) float32, the lowest score of a detection of each class.
    """

    path: str
    names: list[str]
    scores: np.ndarray

    def just_below(self) -> float:
        """A score below all thresholds, and above every lower float32."""
        return float(np.nextafter(self.scores.min(), np.float32(-1)))

    def check(self, class_names: Sequence[str], named: bool = True) -> None:
        """
        Args:
            class_names: names of the classes of the model, in order.
            named: whether they are known. If not, only their number is checked.

        Raises:
            InputError: if the thresholds are of other classes.
        """
        remedy = "use thresholds from an analysis of this model's results"
        if len(self.names) != len(class_names):
            raise InputError(
                f"thresholds {self.path}: {len(self.names)} classes, but the model has {len(class_names)}; {remedy}."
            )
        for index, (name, expected) in enumerate(zip(self.names, class_names)):
            if named and name != expected:
                raise InputError(
                    f"thresholds {self.path}: class {index} is {name!r:.80}, but {expected!r:.80} in the model; "
                    f"{remedy}."
                )


def read_thresholds(path: str | os.PathLike, default: float) -> ClassThresholds:
    """
    Read a JSON list of {"name", "threshold"}, one per class.

    Args:
        path: path of the file.
        default: threshold of classes for which the file has null.

    Raises:
        InputError: if the file can't be read, or a threshold is not in 0..1.
    """
    path = os.fspath(path)
    rows = read_json(path, "Thresholds file", _WRITE)
    if not isinstance(rows, list) or not rows or not all(_is_row(row) for row in rows):
        raise InputError(f"thresholds {path}: not a list of objects with name and threshold; {_WRITE}.")
    scores = [default if row["threshold"] is None else _number(path, row) for row in rows]
    return ClassThresholds(path, [str(row["name"]) for row in rows], np.array(scores, np.float32))


def _is_row(row) -> bool:
    return isinstance(row, dict) and {"name", "threshold"} <= {*row}


def _number(path: str, row: dict) -> float:
    value = row["threshold"]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InputError(
            f"thresholds {path}: threshold of {row['name']!r:.80} is {value!r:.40}; it must be a number between 0 and "
            "1, or null."
        )
    return value
