"""Whether autocast is on, with every version of torch."""

from __future__ import annotations

import torch


def autocast_enabled(device_type: str) -> bool:
    """
    Args:
        device_type: "cpu" or "cuda".
    """
    try:
        return torch.is_autocast_enabled(device_type)
    except TypeError:  # torch before 2.4 has a function for each type
        return torch.is_autocast_cpu_enabled() if device_type == "cpu" else torch.is_autocast_enabled()
