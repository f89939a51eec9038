"""The differentiable step of a bilevel problem."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def one_step_ahead(module: nn.Module, loss: Callable[[dict[str, Tensor]], Tensor], lr: float) -> dict[str, Tensor]:
    """
    The trained parameters of a module after one step of gradient descent, theta - lr d loss / d theta.

    The result is a function of everything that ``loss`` depends on, so gradients flow through the step. The module is
    not changed.

    Args:
        module: only its parameters that require gradients are used.
        loss: {parameter name: tensor} to a scalar, usually by ``torch.func.functional_call``.
        lr: learning rate of the step.

    Returns:
        {parameter name: tensor} for ``torch.func.functional_call``.
    """
    parameters: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss(parameters), list(parameters.values()), create_graph=True)
    return {name: p - lr * gradient for (name, p), gradient in zip(parameters.items(), gradients)}
