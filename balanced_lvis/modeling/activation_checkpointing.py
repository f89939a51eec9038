"""Activation checkpointing: less training memory, at the cost of a second forward pass of some modules."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from detectron2.layers import CNNBlockBase
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..utils.errors import InputError

PARTS = ("backbone", "box_head")


def check_checkpointing(cfg) -> None:
    """
    Raises:
        InputError: for an unknown part in ``MODEL.ACTIVATION_CHECKPOINTING``.
    """
    unknown = [part for part in cfg.MODEL.ACTIVATION_CHECKPOINTING if part not in PARTS]
    if unknown:
        raise InputError(f"MODEL.ACTIVATION_CHECKPOINTING has {unknown[0]!r}; valid: {', '.join(PARTS)}.")


def checkpoint_activations(model: nn.Module, parts: tuple[str, ...]) -> int:
    """
    Recompute the activations of parts of a model in the backward pass instead of keeping them.

    Losses and gradients stay the same. Running statistics of batch normalization are updated by the first forward pass
    only. Nothing changes in evaluation, or if no gradient is needed. Parameters keep their names.

    Args:
        model: a ``GeneralizedRCNN``, changed in place.
        parts: names in ``PARTS``. "backbone" is every trained residual block, separately; "box_head" is the box head,
            or the box heads of a cascade.

    Returns:
        number of modules that are computed twice.
    """
    modules = [module for part in parts for module in _FINDERS[part](model)]
    for module in modules:
        module.forward = functools.partial(_forward, module, module.forward)
    return len(modules)


def _blocks(model: nn.Module) -> list[nn.Module]:
    blocks = [module for module in model.get_submodule("backbone").modules() if isinstance(module, CNNBlockBase)]
    return [block for block in blocks if any(parameter.requires_grad for parameter in block.parameters())]


def _box_heads(model: nn.Module) -> list[nn.Module]:
    head = model.get_submodule("roi_heads.box_head")
    return list(head) if isinstance(head, nn.ModuleList) else [head]


_FINDERS = {"backbone": _blocks, "box_head": _box_heads}


def _forward(module: nn.Module, forward, *inputs):
    if not (module.training and torch.is_grad_enabled()):
        return forward(*inputs)
    contexts = functools.partial(_contexts, module)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)


def _contexts(module: nn.Module):
    """Contexts of the first and of the second forward pass."""
    return contextlib.nullcontext(), _frozen_statistics(module)


@contextlib.contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Context that restores the running statistics of batch normalization."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
    saved = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, saved):
            buffer.data.copy_(value)  # .data: autograd has saved the buffer, and must not see a change
