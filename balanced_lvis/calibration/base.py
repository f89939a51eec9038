"""
Base class and registry of calibrations.

Shape shorthand: R RoIs, K foreground classes, C outputs of the classifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..activations import Activation
from ..activations.prior_module import PriorModule, PriorSource
from ..utils.errors import InputError
from ..utils.registry import Registry

_CALIBRATIONS: Registry[Calibration] = Registry("calibration")


class Calibration(PriorModule):
    """
    Test-time scores in place of those of the activation.

    Subclasses define :meth:`scores` and :attr:`families`, and register themselves with :func:`register_calibration`.
    They have no parameters and no entries in the state dict.

    Args:
        num_classes: K.
        prior: the training set's :class:`~balanced_lvis.priors.ClassPrior`, or a function that returns it; read where
            :attr:`needs_prior` is True.
    """

    # Families of activations whose scores can be calibrated.
    families: tuple[str, ...] = ()
    # Values of options that `balanced-lvis calibrate` tries by default; all combinations of them.
    grid: ClassVar[Mapping[str, Sequence]] = {}

    def scores(self, activation: Activation, logits: Tensor) -> Tensor:
        """
        Args:
            activation: of the classifier, of one of :attr:`families`; gives class logits and scores.
            logits: (R, C).

        Returns:
            (R, K+1) test-time scores in [0, 1], or (R, K) where the activation has no background; as
            :meth:`Activation.scores <balanced_lvis.activations.Activation.scores>`.
        """
        raise NotImplementedError

    def prepare(self, activation: Activation) -> None:
        """
        Read the class prior now rather than at the first scores, if it is needed.

        Raises:
            InputError: if the prior is missing or doesn't fit.
        """
        with torch.no_grad():
            self.scores(activation, torch.zeros(0, activation.num_outputs, device=self._device_of.device))


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


def check_family(name: str, family: str) -> None:
    """
    Args:
        name: of a calibration.
        family: of the activation.

    Raises:
        InputError: if the calibration doesn't fit the activation.
    """
    families = calibration_class(name).families
    if family not in families:
        raise InputError(
            f"Calibration {name!r} is for activations of the families {', '.join(families)}, but the activation is of "
            f"the family {family!r}; choose another calibration, or none."
        )
