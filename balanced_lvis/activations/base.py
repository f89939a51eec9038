"""
What every activation is, and the table of them by name.

Shape shorthand:

    R  number of RoIs
    K  number of foreground classes; index K stands for background
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from ..priors import ClassPrior
from ..utils.errors import InputError, did_you_mean

_ACTIVATIONS: dict[str, type[Activation]] = {}


class Activation(nn.Module):
    """
    Both halves of a classifier's output function, so that training and testing can't disagree.

    Subclasses define :meth:`loss` and :meth:`scores`, never change their arguments, and register themselves with
    :func:`register_activation`. All have K+1 outputs, as Detectron2's classifier has, so that inference, box
    regression and stock checkpoints stay usable.

    Args:
        num_classes: K.
        prior: the training set's :class:`ClassPrior`; only read where :attr:`needs_prior` is True.
    """

    needs_prior = False
    # What kind of scores the classifier's logits are for, and the name of the activation that is this one without
    # its prior: "sigmoid" or "softmax". Empty where neither fits.
    family = ""

    def __init__(self, num_classes: int, prior: ClassPrior | None = None):
        super().__init__()
        self.num_classes = num_classes
        if not self.needs_prior:
            return
        if prior is None:
            raise InputError(f"{type(self).__name__} needs prior=, the ClassPrior of the training set.")
        if prior.num_classes != num_classes:
            raise InputError(
                f"{type(self).__name__}: num_classes is {num_classes}, but the class prior has {prior.num_classes} "
                "classes; they must be those of the same training set."
            )

    def loss(self, logits: Tensor, gt_classes: Tensor, roi_weight: Tensor | None = None) -> Tensor:
        """
        Args:
            logits: (R, K+1).
            gt_classes: (R,) int64 in 0..K, K for background.
            roi_weight: (R,) weight of each RoI's loss, 1 unless given. The divisor stays R, and gradients reach the
                weights.

        Returns:
            scalar, averaged over RoIs. ``logits.sum() * 0`` where R = 0, so that gradients exist on every rank.

        Raises:
            InputError: if ``logits`` or ``roi_weight`` have another shape.
        """
        raise NotImplementedError

    def unshifted_loss(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """
        The loss of the test-time scores, without any prior.

        Args:
            logits: (R, K+1).
            gt_classes: (R,) int64 in 0..K, K for background.

        Returns:
            scalar, as :meth:`loss`.
        """
        return self.loss(logits, gt_classes)

    def scores(self, logits: Tensor) -> Tensor:
        """
        Args:
            logits: (R, K+1).

        Returns:
            (R, K+1) test-time scores in [0, 1]; the last column is the background's and is not used for detection.
        """
        raise NotImplementedError

    def init_bias_(self, bias: Tensor) -> None:
        """Initialise the classifier's bias (K+1,) in place. Zero unless an activation says otherwise."""
        nn.init.zeros_(bias)

    def _check(self, logits: Tensor, roi_weight: Tensor | None = None) -> None:
        if logits.dim() != 2 or logits.shape[1] != self.num_classes + 1:
            raise InputError(
                f"{type(self).__name__}: logits have shape {tuple(logits.shape)}; with {self.num_classes} classes "
                f"they must be (R, {self.num_classes + 1}): the classes and one background unit."
            )
        # (R, 1) would broadcast to a sum over all pairs of RoIs, without an error.
        if roi_weight is not None and roi_weight.shape != logits.shape[:1]:
            raise InputError(
                f"{type(self).__name__}: roi_weight has shape {tuple(roi_weight.shape)}; with {logits.shape[0]} RoIs "
                f"it must be ({logits.shape[0]},): one weight per RoI."
            )


def register_activation(name: str):
    """Class decorator: make an :class:`Activation` known as ``name`` to :func:`build_activation` and to configs."""

    def register(cls: type[Activation]) -> type[Activation]:
        if name in _ACTIVATIONS:
            raise InputError(f"An activation named {name!r} is registered already: {_ACTIVATIONS[name]}.")
        _ACTIVATIONS[name] = cls
        return cls

    return register


def activation_names() -> list[str]:
    """The names that :func:`build_activation` knows, sorted."""
    return sorted(_ACTIVATIONS)


def activation_class(name: str) -> type[Activation]:
    """
    Raises:
        InputError: for an unknown name, listing the valid ones.
    """
    if name not in _ACTIVATIONS:
        hint = did_you_mean(name, _ACTIVATIONS)
        raise InputError(f"Unknown activation {name!r}.{hint} Valid: {', '.join(activation_names())}.")
    return _ACTIVATIONS[name]


def build_activation(name: str, num_classes: int, prior: ClassPrior | None = None, **options) -> Activation:
    """
    Args:
        name: one of :func:`activation_names`.
        num_classes: K.
        prior: the training set's :class:`ClassPrior`, where the activation needs one.
        **options: that activation's own keyword arguments.

    Raises:
        InputError: for an unknown name or an invalid option.
    """
    cls = activation_class(name)
    valid = [p.name for p in inspect.signature(cls).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in valid:
            raise InputError(f"{name} has no option {option!r}; valid: {', '.join(valid) or 'none'}.")
    return cls(num_classes, prior, **options)


def full_precision(logits: Tensor) -> Tensor:
    """Half-precision logits as float32, others as they are: offsets around 10 lose three digits in half precision."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
