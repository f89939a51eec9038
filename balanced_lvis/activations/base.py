"""
What every activation is, and the table of them by name.

Shape shorthand:

    R  number of RoIs
    K  number of foreground classes; index K stands for background
"""

from __future__ import annotations

import difflib
import inspect

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..priors import ClassPrior

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

    def loss(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """
        Args:
            logits: (R, K+1).
            gt_classes: (R,) int64 in 0..K, K for background.

        Returns:
            scalar, averaged over RoIs. ``logits.sum() * 0`` where R = 0, so that gradients exist on every rank.
        """
        raise NotImplementedError

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

    def _check(self, logits: Tensor) -> None:
        if logits.dim() != 2 or logits.shape[1] != self.num_classes + 1:
            raise InputError(
                f"{type(self).__name__}: logits have shape {tuple(logits.shape)}; with {self.num_classes} classes "
                f"they must be (R, {self.num_classes + 1}): the classes and one background unit."
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
        close = difflib.get_close_matches(name, _ACTIVATIONS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
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
