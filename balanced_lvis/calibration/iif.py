"""IIF (Alexandridis et al., Inverse Image Frequency for Long-tailed Image Recognition, 2022)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..activations.prior_module import PriorSource
from ..priors import ClassPrior, check_count
from ..utils.errors import InputError
from .base import Calibration, register_calibration

FORMS = ("multiply", "add")


def _raw(frequency, total):
    return -np.log(frequency)


def _smooth(frequency, total):
    return np.log((total + 1) / (frequency * total + 1)) + 1


def _rel(frequency, total):
    return np.log((1 - frequency) / frequency)


def _base2(frequency, total):
    return -np.log2(frequency)


def _base10(frequency, total):
    return -np.log10(frequency)


def _normit(frequency, total):
    return -torch.special.ndtri(torch.as_tensor(frequency)).numpy()


def _gombit(frequency, total):
    return -np.log(-np.log1p(-frequency))


# The inverse frequency of each class, from its frequency f = n_c / N inside (0, 1) and N.
VARIANTS: dict[str, Callable] = {
    "raw": _raw,
    "smooth": _smooth,
    "rel": _rel,
    "normit": _normit,
    "gombit": _gombit,
    "base2": _base2,
    "base10": _base10,
}


@register_calibration("iif")
class IIF(Calibration):
    """
    The logits of the classes times the inverse frequency w_c of each class, or plus it.

    w_c is relative to the inverse frequency of a class of mean frequency: a factor of w_c / w_mean, or a summand of
    w_c - w_mean. So equal counts change nothing, and the logit of the background, whose factor is 1 and whose summand
    is 0, stays comparable. The paper's factors are w_c, to which a classifier is trained; among the classes, the
    difference from w_c / w_mean is a temperature.

    Two properties limit its use without training. With "add" and "raw", it is logit adjustment with tau = 1. And a
    product depends on a common offset of the logits, which a softmax is invariant to: classifiers with equal scores can
    have different calibrated ones, and a factor above 1 lowers the negative logits of a rare class.

    Args:
        num_classes: K.
        prior: the training set's :class:`~balanced_lvis.priors.ClassPrior`.
        variant: with f = n_c / N, the inverse frequency is -log f ("raw"; with base 2 or 10 "base2" and "base10"),
            log((N + 1) / (n_c + 1)) + 1 ("smooth"), log((1 - f) / f) ("rel"), minus the standard normal quantile of f
            ("normit") or -log(-log(1 - f)) ("gombit").
        form: "multiply", as in the paper, or "add".
        relative: whether w_c is relative to a class of mean frequency. False: w_c as in the paper, with which scores of
            a detector that was not trained with it are hardly comparable with the background.
        count: "image": n_c and N count images; "instance": objects.

    Raises:
        InputError: for another ``variant``, ``form`` or ``count``.
    """

    families = ("softmax", "seesaw")
    needs_prior = True
    grid: ClassVar = {"variant": ("raw", "smooth")}  # those that are above 0 for every frequency

    def __init__(
        self,
        num_classes: int,
        prior: PriorSource = None,
        *,
        variant: str = "raw",
        form: str = "multiply",
        relative: bool = True,
        count: str = "image",
    ):
        super().__init__(num_classes, prior)
        if variant not in VARIANTS:
            raise InputError(f"variant of iif is {variant!r}; valid: {', '.join(VARIANTS)}.")
        if form not in FORMS:
            raise InputError(f"form of iif is {form!r}; valid: {', '.join(FORMS)}.")
        self.variant, self.form, self.relative = variant, form, relative
        self.count = check_count(count)

    @property
    def weight(self) -> Tensor:
        """(K,) float32: what the logits of the classes are multiplied by, or what is added to them."""
        return self.from_prior("weight", self._weight)

    def _weight(self, prior: ClassPrior) -> Tensor:
        frequency, total = self._frequency(prior)
        inverse = VARIANTS[self.variant](np.append(frequency, frequency.mean()), total)
        weight, mean = inverse[:-1], inverse[-1]
        if self.form == "multiply" and inverse.min() <= 0:
            name = [*prior.class_names, "of mean frequency"][int(inverse.argmin())]
            raise InputError(
                f"iif: the inverse frequency of class {name!r} is {inverse.min():.3g}, and logits can only be "
                f"multiplied by numbers above 0; use form 'add', or another variant than {self.variant!r}."
            )
        if self.relative:
            weight = weight / mean if self.form == "multiply" else weight - mean
        return torch.as_tensor(weight).float()

    def _frequency(self, prior: ClassPrior) -> tuple[np.ndarray, float]:
        if self.count == "image":
            return prior.image_frequency(), prior.frequency_images
        return prior.share("instance"), prior.class_counts("instance").sum()

    def class_logits(self, class_logits):
        return class_logits * self.weight if self.form == "multiply" else class_logits + self.weight
