"""Base class of modules that may read the class prior of a training set."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..priors import ClassPrior
from ..utils.errors import InputError

PriorSource = ClassPrior | Callable[[], ClassPrior] | None


class PriorModule(nn.Module):
    """
    A module that reads the class prior when it first needs it, so that a model can be built without one.

    Args:
        num_classes: K.
        prior: the training set's :class:`ClassPrior`, a function that returns it, or None.

    Raises:
        InputError: if the prior has another number of classes.
    """

    needs_prior = False

    def __init__(self, num_classes: int, prior: PriorSource = None):
        super().__init__()
        self.num_classes = num_classes
        self._prior = prior
        self._from_prior: dict[str, Tensor] = {}
        self._device_of: Tensor
        # Moves with the module, and so tells its device. Not persistent: checkpoints have no such entry.
        self.register_buffer("_device_of", torch.empty(0), persistent=False)
        if isinstance(prior, ClassPrior):
            self._check_prior(prior)

    @property
    def prior(self) -> ClassPrior:
        """
        The class prior, looked up when it is first read.

        Raises:
            InputError: if there is none, or it has another number of classes.
        """
        if callable(self._prior):
            self._prior = self._prior()
        if self._prior is None:
            raise InputError(f"{type(self).__name__} needs prior=, the ClassPrior of the training set.")
        self._check_prior(self._prior)
        return self._prior

    def from_prior(self, name: str, values: Callable[[ClassPrior], Tensor]) -> Tensor:
        """
        A tensor that follows from the class prior, on this module's device.

        It is computed once and is not part of the state dict, as it follows from the configuration.

        Args:
            name: key under which the tensor is kept.
            values: computes the tensor from the prior.
        """
        device = self._device_of.device
        if name not in self._from_prior:
            self._from_prior[name] = values(self.prior)
        if self._from_prior[name].device != device:
            self._from_prior[name] = self._from_prior[name].to(device)
        return self._from_prior[name]

    def _check_prior(self, prior: ClassPrior) -> None:
        if prior.num_classes != self.num_classes:
            raise InputError(
                f"{type(self).__name__}: num_classes is {self.num_classes}, but the class prior has "
                f"{prior.num_classes} classes; both must come from the same training set."
            )
