"""
Base class and registry of activations.

Shape shorthand:

    R  number of RoIs, or of samples in image classification
    K  number of foreground classes; index K stands for background
    C  number of outputs of the classifier: K+1 in a detector, K without background, other numbers where a method
       needs them
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..utils.errors import InputError
from ..utils.registry import Registry
from .prior_module import PriorModule, PriorSource

REDUCTIONS = ("sum", "mean")
LINEAR = "linear"  # the kind of classifier of most activations
_INITIAL_STD = 0.01  # of a classifier's weights, as in Detectron2

_ACTIVATIONS: Registry[type[Activation]] = Registry("activation")


class Activation(PriorModule):
    """
    The output function of a classifier: its training loss and its test-time scores.

    Subclasses define :meth:`loss` and :meth:`scores`, which never change their arguments or the module's state, and
    register themselves with :func:`register_activation`. The class prior is read by the loss only.

    A subclass whose loss depends on what was seen in training declares tensors with :meth:`add_state` and updates them
    in :meth:`observe`. The engine sums the updates over processes and saves the tensors in checkpoints.

    Args:
        num_classes: K.
        prior: the training set's :class:`~balanced_lvis.priors.ClassPrior`, or a function that returns it; read where
            :attr:`needs_prior` is True.
        background: False for image classification, which has K outputs and no background class.
    """

    # Kind of scores that the logits are trained for. Checkpoints record it, and can be evaluated with any activation
    # of the same family. If an activation is registered by this name, it is the same one without the prior.
    family = ""

    # Properties that the shared tests check. Set one to False if a method does not have it.
    deterministic = True  # the same arguments and state give the same loss
    neutral_at_uniform_counts = True  # with equal class counts, the loss is that of the family
    exact_gradient = True  # backward() computes the derivative of the loss: nothing in it is detached

    # Whether the scores of the classes and the background sum to 1. False: the score of each class is a probability of
    # its own, as of a sigmoid.
    normalized_scores = False

    # Whether the loss has margins for rare classes that are not a training_shift(), as they depend on training or the
    # loss has weights, too. As with a shift, a calibration by the class prior would correct the scores twice.
    has_margins = False

    def __init__(self, num_classes: int, prior: PriorSource = None, background: bool = True):
        super().__init__(num_classes, prior)
        self.background = background
        self._reductions: dict[str, str] = {}
        self._recorded: list[tuple[Tensor, Tensor]] | None = None

    # ------------------------------------------------------------------ the classifier

    @property
    def num_outputs(self) -> int:
        """C, the number of logits per RoI."""
        return self.num_classes + int(self.background)

    def classifier(self, in_features: int) -> nn.Module:
        """
        A new classifier with initial weights: (R, ``in_features``) to (R, C).

        Linear unless a method needs another one. A detector whose activation doesn't override this method, and has K+1
        outputs, keeps Detectron2's own classifier.
        """
        return self._initialized(nn.Linear(in_features, self.num_outputs))

    @property
    def classifier_kind(self) -> str:
        """
        Kind of the classifier in words, such as "normalized with temperature 20"; checkpoints record it.

        Classifiers whose parameters have the same names and shapes, but which compute other logits, differ in it.
        """
        overridden = type(self).classifier is not Activation.classifier
        return f"that of {type(self).__name__}" if overridden else LINEAR

    def _initialized(self, linear: nn.Linear) -> nn.Linear:
        nn.init.normal_(linear.weight, std=_INITIAL_STD)
        self.init_bias_(linear.bias)
        return linear

    def init_bias_(self, bias: Tensor) -> None:
        """Initialise the bias (C,) of a linear classifier in place: with zeros, unless an activation overrides it."""
        nn.init.zeros_(bias)

    # ------------------------------------------------------------------ losses and scores

    def loss(self, logits: Tensor, gt_classes: Tensor, roi_weight: Tensor | None = None) -> Tensor:
        """
        Args:
            logits: (R, C).
            gt_classes: (R,) int64 in 0..K, K for background.
            roi_weight: (R,) weight of each RoI's loss, 1 by default. The divisor stays R, and gradients reach the
                weights.

        Returns:
            scalar, averaged over RoIs. ``logits.sum() * 0`` where R = 0, so that gradients exist on every rank.

        Raises:
            InputError: if ``logits`` or ``roi_weight`` have another shape.
        """
        raise NotImplementedError

    def unshifted_loss(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """
        The loss of the test-time scores, without a prior.

        Args:
            logits: (R, C).
            gt_classes: (R,) int64 in 0..K, K for background.

        Returns:
            scalar, as :meth:`loss`.
        """
        return self.loss(logits, gt_classes)

    def scores(self, logits: Tensor) -> Tensor:
        """
        Args:
            logits: (R, C).

        Returns:
            (R, K+1) test-time scores in [0, 1], or (R, K) without background. The last of K+1 columns is the
            background's and is not used for detection.
        """
        raise NotImplementedError

    def class_logits(self, logits: Tensor) -> Tensor:
        """
        The logits of the classes, for accuracy, calibration and analysis.

        Args:
            logits: (R, C).

        Returns:
            (R, K): the first K columns, unless an activation overrides it.
        """
        return logits[:, : self.num_classes]

    def with_class_logits(self, logits: Tensor, class_logits: Tensor) -> Tensor:
        """
        The same logits with other ones of the classes, for calibrations. An activation that overrides
        :meth:`class_logits` overrides this method, too.

        Args:
            logits: (R, C).
            class_logits: (R, K), in place of those that :meth:`class_logits` returns.

        Returns:
            (R, C).
        """
        return torch.cat([class_logits, logits[:, self.num_classes :]], dim=1)

    def training_shift(self) -> np.ndarray | None:
        """(K,) float64: what the loss adds to the logit of each class. None if it doesn't shift logits."""
        return None

    def prepare(self) -> None:
        """
        Read the class prior now rather than at the first loss, if the loss needs it.

        Raises:
            InputError: if the prior is missing or doesn't fit.
        """
        device = self._device_of.device
        with torch.no_grad():
            self.loss(torch.zeros(0, self.num_outputs, device=device), torch.zeros(0, dtype=torch.int64, device=device))

    # ------------------------------------------------------------------ state

    def add_state(self, name: str, default: Tensor, reduce: str = "sum") -> None:
        """
        Declare a tensor that :meth:`observe` updates and :meth:`loss` may read, as attribute ``name``.

        It is equal in all processes, is saved in checkpoints and is not averaged by ``MODEL.EMA``.

        Args:
            name: attribute and name in the state dict.
            default: initial value. Counts beyond 16 million need int64 or float64.
            reduce: "sum" or "mean": how the changes that the processes made are combined.

        Raises:
            InputError: for another ``reduce``.
        """
        if reduce not in REDUCTIONS:
            raise InputError(
                f"{type(self).__name__}.add_state: reduce of {name!r} is {reduce!r}; valid: {', '.join(REDUCTIONS)}."
            )
        self.register_buffer(name, default.clone())
        self._reductions[name] = reduce

    @property
    def states(self) -> dict[str, str]:
        """Names of the declared tensors, each with its reduction; empty for a stateless activation."""
        return dict(self._reductions)

    def observe(self, logits: Tensor, gt_classes: Tensor) -> None:
        """
        Update the state in place from the batches of one optimizer update; called for accepted updates only.

        Use operations that a GPU needn't be waited for: ``one_hot(...).sum(0)``, not ``bincount`` or ``.item()``.

        Args:
            logits: (R, C) of all of this process's batches of the update, detached.
            gt_classes: (R,) int64 in 0..K.
        """

    def record(self, logits: Tensor, gt_classes: Tensor) -> None:
        """
        Keep a training batch for :meth:`observe`; called with everything that :meth:`loss` trains on.

        Does nothing without state, or outside of :class:`balanced_lvis.activations.StateUpdates`.
        """
        if self._recorded is not None:
            self._recorded.append((logits.detach(), gt_classes))

    def _check(self, logits: Tensor, roi_weight: Tensor | None = None) -> None:
        if logits.dim() != 2 or logits.shape[1] != self.num_outputs:
            raise InputError(
                f"{type(self).__name__}: logits have shape {tuple(logits.shape)}; with {self.num_classes} classes "
                f"they must be (R, {self.num_outputs}), as the classifier's outputs."
            )
        # (R, 1) would broadcast to a sum over all pairs of RoIs, without an error.
        if roi_weight is not None and roi_weight.shape != logits.shape[:1]:
            raise InputError(
                f"{type(self).__name__}: roi_weight has shape {tuple(roi_weight.shape)}; with {logits.shape[0]} RoIs "
                f"it must be ({logits.shape[0]},): one weight per RoI."
            )


def register_activation(name: str):
    """Class decorator: register an :class:`Activation` for :func:`build_activation` and configs."""
    return _ACTIVATIONS.register(name)


def activation_names() -> list[str]:
    """Sorted names of the registered activations."""
    return list(_ACTIVATIONS)


def activation_class(name: str) -> type[Activation]:
    """
    Raises:
        InputError: for an unknown name, listing the valid ones.
    """
    return _ACTIVATIONS.get(name)


def build_activation(name: str, num_classes: int, prior: PriorSource = None, *, background: bool = True, **options):
    """
    Args:
        name: one of :func:`activation_names`.
        num_classes: K.
        prior: the training set's :class:`~balanced_lvis.priors.ClassPrior`, or a function that returns it; needed to
            compute the loss where ``needs_prior`` is True.
        background: False for K outputs without background, as in image classification.
        **options: keyword arguments of that activation.

    Returns:
        the :class:`Activation`.

    Raises:
        InputError: for an unknown name or an invalid option.
    """
    # Activations without this argument have a background.
    without = () if background else (False,)
    return _ACTIVATIONS.build(name, num_classes, prior, *without, **options)


def full_precision(logits: Tensor) -> Tensor:
    """Half-precision logits as float32, others unchanged: offsets around 10 lose three digits in half precision."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
