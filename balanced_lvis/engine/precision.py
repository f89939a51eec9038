"""Mixed precision of the forward pass."""

from __future__ import annotations

import torch

AUTOCAST = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def autocast_dtype(cfg) -> torch.dtype | None:
    """The dtype of the forward pass in training, or None for float32."""
    return AUTOCAST[cfg.SOLVER.AMP.DTYPE] if cfg.SOLVER.AMP.ENABLED else None


def autocast(device: str, dtype: torch.dtype | None) -> torch.autocast:
    """
    The context of a forward pass.

    Args:
        device: type of the model's device.
        dtype: from :func:`autocast_dtype`.
    """
    return torch.autocast(device, dtype=dtype, enabled=dtype is not None)
