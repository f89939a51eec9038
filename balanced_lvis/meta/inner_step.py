"""The differentiable step of a bilevel problem."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def one_step_ahead(module: nn.Module, loss: Callable[[dict[str, Tensor]], Tensor], lr: float) -> dict[str, Tensor]:
    """
    A module's trained parameters after one step of plain gradient descent, theta - lr d loss / d theta.

    The result is still a function of whatever else ``loss`` depends on, so that gradients flow through the step. The
    module itself is not changed.

    Args:
        module: only its parameters that require gradients take part.
        loss: {parameter name: tensor} to a scalar, usually through ``torch.func.functional_call``.
        lr: the step's learning rate.

    Returns:
        {parameter name: tensor} for ``torch.func.functional_call``.
    """
    parameters: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss(parameters), list(parameters.values()), create_graph=True)
    return {name: p - lr * gradient for (name, p), gradient in zip(parameters.items(), gradients)}
