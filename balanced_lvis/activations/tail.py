"""Tail classes: those whose negatives some losses leave out."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..priors import ClassPrior
from ..utils.errors import InputError
from ..utils.once import once
from .prior_module import PriorModule

logger = logging.getLogger(__name__)

GROUPS = "rcf"  # of LVIS: rare, common, frequent


class TailClasses(PriorModule):
    """
    Base class of activations that treat tail classes differently; to be combined with another activation.

    Attributes:
        threshold: classes in less than this share of the training images are the tail.
        tail_groups: letters of LVIS's groups that are the tail; if not empty, instead of ``threshold``.
    """

    needs_prior = True
    _name = ""  # of the activation, in messages
    threshold: float
    tail_groups: str

    def set_tail(self, threshold: float, tail_groups: str = "") -> None:
        """
        Args:
            threshold, tail_groups: the attributes of these names.

        Raises:
            InputError: for a threshold outside (0, 1] or an unknown group.
        """
        self.threshold = check_threshold(threshold, self._name)
        self.tail_groups = check_tail_groups(tail_groups, self._name)

    @property
    def tail(self) -> Tensor:
        """(K,) bool: whether each class is in the tail."""
        return self.from_prior("tail", self._tail)

    def _tail(self, prior: ClassPrior) -> Tensor:
        return torch.as_tensor(tail_classes(prior, self.threshold, self.tail_groups, owner=self._name))


def check_threshold(threshold: float, owner: str) -> float:
    """
    Args:
        threshold: share of the training images below which a class is in the tail.
        owner: name of the activation, for the message.

    Returns:
        ``threshold``.

    Raises:
        InputError: if it is outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise InputError(
            f"threshold of {owner} is {threshold}; it must be a fraction of the training images, above 0 and at most 1."
        )
    return threshold


def check_tail_groups(tail_groups: str, owner: str) -> str:
    """
    Args:
        tail_groups: letters of LVIS's groups that are the tail.
        owner: name of the activation, for the message.

    Returns:
        ``tail_groups``.

    Raises:
        InputError: for an unknown group.
    """
    unknown = sorted(set(tail_groups) - set(GROUPS))
    if unknown:
        raise InputError(
            f"tail_groups of {owner} is {tail_groups!r}; {unknown[0]!r} is not one of the groups r (rare), c (common) "
            "and f (frequent)."
        )
    return tail_groups


def tail_classes(prior: ClassPrior, threshold: float, tail_groups: str = "", *, owner: str) -> list[bool]:
    """
    Whether each of the K classes is in the tail. A warning is logged if none is.

    Args:
        prior: of the training set.
        threshold: classes in less than this share of the training images are the tail.
        tail_groups: letters of LVIS's groups that are the tail, instead of ``threshold``.
        owner: name of the activation, for the warning.
    """
    if tail_groups:
        tail = [group in tail_groups for group in prior.groups().tolist()]
        criterion = f"tail_groups {tail_groups!r}"
    else:
        tail = (prior.image_frequency() < threshold).tolist()
        criterion = f"threshold {threshold:g}, {threshold * prior.frequency_images:g} training images"
    if not any(tail):
        _report_no_tail(owner, criterion)
    return tail


@once
def _report_no_tail(owner: str, criterion: str) -> None:
    logger.warning(
        "%s treats no class differently: no class is in the tail (%s). Choose a higher threshold or another tail.",
        owner, criterion,
    )  # fmt: skip
