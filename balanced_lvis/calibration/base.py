"""
Base class and registry of calibrations.

Shape shorthand: R RoIs, K foreground classes, C outputs of the classifier.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..activations import Activation, activation_class
from ..activations.base import full_precision
from ..activations.prior_module import PriorModule, PriorSource
from ..utils.errors import InputError
from ..utils.io import cached_sha256, read_json
from ..utils.registry import Registry
from ..utils.text import one_line

logger = logging.getLogger(__name__)

_CALIBRATIONS: Registry[type[Calibration]] = Registry("calibration")
WEIGHTS_SHA256 = "weights_sha256"  # key in the files of Calibration.saved_files


class Calibration(PriorModule):
    """
    Test-time scores in place of those of the activation.

    Subclasses define :meth:`class_logits`, from whose result the activation computes the scores, or :meth:`scores`, and
    register themselves with :func:`register_calibration`. They have no parameters and no entries in the state dict.

    Args:
        num_classes: K.
        prior: the training set's :class:`~balanced_lvis.priors.ClassPrior`, or a function that returns it; read where
            :attr:`needs_prior` is True.
    """

    # Families of activations whose scores can be calibrated; empty for all families.
    families: tuple[str, ...] = ()
    # Values of options that `balanced-lvis calibrate` tries by default; all combinations of them.
    grid: ClassVar[Mapping[str, Sequence]] = {}
    # Whether the class prior must have the fractal dimensions of box centres.
    needs_boxes = False
    # Options that are paths of files which belong to a checkpoint: {option: suffix}. In a config, such an option may be
    # empty if the file is next to the checkpoint, with this suffix in place of the checkpoint's. It is JSON, with the
    # SHA-256 of the checkpoint as WEIGHTS_SHA256, see check_saved_files.
    saved_files: ClassVar[Mapping[str, str]] = {}
    # Whether what is read from a file belongs to one classifier, and not to those of several stages of a cascade.
    of_one_classifier = False

    def class_logits(self, class_logits: Tensor) -> Tensor:
        """
        Args:
            class_logits: (R, K) logits of the classes, of float32 or float64.

        Returns:
            (R, K) calibrated logits. Those of the background and of objectness are not changed.
        """
        raise NotImplementedError

    def scores(self, activation: Activation, logits: Tensor) -> Tensor:
        """
        Args:
            activation: of the classifier, which :func:`check_fits` accepts; gives class logits and scores.
            logits: (R, C).

        Returns:
            (R, K+1) test-time scores in [0, 1], or (R, K) where the activation has no background; as
            :meth:`Activation.scores <balanced_lvis.activations.Activation.scores>`.
        """
        logits = full_precision(logits)
        return scores_of(activation, logits, self.class_logits(activation.class_logits(logits)))

    def prepare(self, activation: Activation) -> None:
        """
        Read the class prior now rather than at the first scores, if it is needed.

        Raises:
            InputError: if the prior is missing or doesn't fit.
        """
        with torch.no_grad():
            self.scores(activation, torch.zeros(0, activation.num_outputs, device=self._device_of.device))

    def check_classes(self, class_names: Sequence[str], owner: str) -> None:
        """
        Check what the calibration has read from files of its own; the class prior is checked elsewhere.

        Args:
            class_names: K names.
            owner: of the classes, for the message, such as "dataset 'lvis_v1_val'".

        Raises:
            InputError: if a file is of other classes.
        """

    @property
    def files(self) -> dict[str, str]:
        """What files, apart from the class prior, scores depend on: {name: path}."""
        return {}


def register_calibration(name: str):
    """Class decorator: register a :class:`Calibration` for :func:`build_calibration` and configs."""
    return _CALIBRATIONS.register(name)


def calibration_names() -> list[str]:
    """Sorted names of the registered calibrations."""
    return list(_CALIBRATIONS)


def calibration_class(name: str) -> type[Calibration]:
    """
    Raises:
        InputError: for an unknown name, listing the valid ones.
    """
    return _CALIBRATIONS.get(name)


def build_calibration(name: str, num_classes: int, prior: PriorSource = None, **options) -> Calibration:
    """
    Args:
        name: one of :func:`calibration_names`.
        num_classes: K.
        prior: the training set's class prior, or a function that returns it.
        **options: keyword arguments of that calibration.

    Raises:
        InputError: for an unknown name or an invalid option.
    """
    return _CALIBRATIONS.build(name, num_classes, prior, **options)


def check_fits(name: str, activation_name: str) -> None:
    """
    Args:
        name: of a calibration.
        activation_name: of an activation.

    Raises:
        InputError: for an unknown name, or if the calibration can't be combined with the activation.
    """
    if reason := misfit(name, activation_name):
        raise InputError(
            f"Calibration {name!r} can't be combined with activation {activation_name!r}: {reason}; choose another "
            "calibration, or none."
        )


def misfit(name: str, activation_name: str) -> str:
    """
    Args:
        name, activation_name: as for :func:`check_fits`.

    Returns:
        why they can't be combined; empty if they can.

    Raises:
        InputError: for an unknown name.
    """
    families, activation = calibration_class(name).families, activation_class(activation_name)
    if families and activation.family not in families:
        return (
            f"it is for the families {', '.join(families)}, and the activation is of the family {activation.family!r}"
        )
    own = [getattr(activation, f) is not getattr(Activation, f) for f in ("class_logits", "with_class_logits")]
    if own == [True, False]:
        return f"{activation.__name__} overrides class_logits, but not with_class_logits"
    return ""


def corrects_twice(name: str, activation_name: str) -> bool:
    """
    Whether the calibration corrects, by the class prior, scores that the training loss has corrected already.

    Args:
        name, activation_name: as for :func:`check_fits`.

    Raises:
        InputError: for an unknown name.
    """
    activation = activation_class(activation_name)
    shifts = activation.training_shift is not Activation.training_shift
    return calibration_class(name).needs_prior and (shifts or activation.has_margins)


def with_saved_files(name: str, options: Mapping[str, object], weights: str) -> dict[str, object]:
    """
    The options of a calibration, with the files next to a checkpoint in place of empty :attr:`Calibration.saved_files`.

    Args:
        name: of the calibration.
        options: {option: value}.
        weights: path of the checkpoint.
    """
    found = dict(options)
    for option, suffix in calibration_class(name).saved_files.items():
        path = path_next_to(weights, suffix)
        if not found.get(option) and os.path.isfile(path):
            found[option] = path
    return found


def path_next_to(weights: str, suffix: str) -> str:
    """The path of one of the :attr:`Calibration.saved_files` of a checkpoint, with ``suffix`` in place of its own."""
    return os.path.splitext(weights)[0] + suffix


def check_saved_files(calibration: Calibration, weights: str) -> None:
    """
    Check that what a calibration has read from files next to a checkpoint belongs to this checkpoint.

    A file in another place, which an option names, is not checked. The whole checkpoint is read, to compute its
    SHA-256: call this in one process of a job.

    Args:
        calibration: whose options :func:`with_saved_files` has completed.
        weights: path of the checkpoint.

    Raises:
        InputError: if a file states the SHA-256 of another checkpoint.
    """
    for option, suffix in calibration.saved_files.items():
        path, checkpoint = path_next_to(weights, suffix), weights.split("?", 1)[0]  # without a query of Detectron2
        if path not in calibration.files.values() or not os.path.isfile(checkpoint):
            continue
        stated = _stated_digest(path)
        if not stated:
            logger.warning(
                "%s doesn't state of which checkpoint it is, so it is not known whether it belongs to %s.",
                one_line(path), one_line(weights),
            )  # fmt: skip
        elif stated != cached_sha256(checkpoint):
            raise InputError(
                f"{path!r} was written for another checkpoint than {weights!r}, for example before the model was "
                "trained again. Write it again, for LogN with `balanced-lvis collect-logits`, or for an image "
                "classifier with `balanced-lvis train-classifier --collect-logits`. To use it nevertheless, move it "
                f"to another folder and set the calibration's option {option.upper()} to its path."
            )


def _stated_digest(path: str) -> str:
    return str(read_json(path, "Calibration file", "write it again").get(WEIGHTS_SHA256, ""))


def scores_of(activation: Activation, logits: Tensor, class_logits: Tensor) -> Tensor:
    """
    The activation's scores with other logits of the classes.

    Args:
        activation: the activation.
        logits: (R, C) outputs of the classifier.
        class_logits: (R, K), in place of those of the classes in ``logits``.
    """
    return activation.scores(activation.with_class_logits(logits, class_logits))


def check_finite(calibration: str, option: str, value: float, lowest: float = -math.inf) -> float:
    """
    Args:
        calibration, option: names, for the message.
        value: of the option.
        lowest: smallest valid value.

    Returns:
        ``value``.

    Raises:
        InputError: if it is not finite, or less than ``lowest``.
    """
    if not math.isfinite(value) or value < lowest:
        least = "" if lowest == -math.inf else f" of at least {lowest:g}"
        raise InputError(f"{option} of {calibration} is {value}; it must be a finite number{least}.")
    return value
