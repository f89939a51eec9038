"""
Config values that converted weights rely on, kept in their checkpoints.

Another order of the channels, another normalisation or the stride in another convolution gives no error: the weights
fit, and all results are wrong. So a converted checkpoint has these values, and loading compares them with the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ...utils.errors import InputError
from ...utils.text import one_line

KEY = "settings"  # in checkpoints
FORMAT = "INPUT.FORMAT"
MEAN = "MODEL.PIXEL_MEAN"
STD = "MODEL.PIXEL_STD"
STRIDE = "MODEL.RESNETS.STRIDE_IN_1X1"
MASK_TEMPERATURE = "MODEL.ROI_MASK_HEAD.TEMPERATURE"

# Those of torchvision, and so of timm and mmdetection: images in 0..1 minus (0.485, 0.456, 0.406), divided by
# (0.229, 0.224, 0.225), here for pixels in 0..255; and the stride in the 3x3 convolution (ResNet v1.5).
TORCHVISION = {
    FORMAT: "RGB",
    MEAN: [123.675, 116.28, 103.53],
    STD: [58.395, 57.12, 57.375],
    STRIDE: False,
}


def in_words(settings: Mapping) -> str:
    """The settings as overrides for a command line."""
    return " ".join(f"{one_line(key)} {_in_words(value)}" for key, value in settings.items())


def _in_words(value) -> str:
    text = one_line("[" + ", ".join(f"{part:g}" for part in value) + "]" if isinstance(value, list) else value)
    return f'"{text}"' if " " in text else text


def read_settings(content: Mapping, source: str) -> dict:
    """
    The settings in a checkpoint; empty if it has none.

    Raises:
        InputError: if the entry is invalid.
    """
    settings = content.get(KEY, {})
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise InputError(f"{source}: its entry {KEY!r} is not a dict of config keys; balanced_lvis did not write it.")
    for key, value in settings.items():
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, (bool, int, float, str)) for part in parts):
            raise InputError(f"{source}: its setting {one_line(key)} is a {type(value).__name__}, not a config value.")
    return settings


def contradicted(settings: Mapping, model: torch.nn.Module) -> dict:
    """The settings that the model doesn't have. Unknown ones, and those that the model can't tell, are not included."""
    found = {key: get(model) for key, get in _IN_MODELS.items() if key in settings}
    return {key: settings[key] for key, value in found.items() if value is not None and _differ(value, settings[key])}


def _differ(found, expected) -> bool:
    if isinstance(found, (str, bool)):
        return found != expected
    found, expected = (value if isinstance(value, list) else [value] for value in (found, expected))
    numbers = all(isinstance(value, (int, float)) for value in expected)
    return not numbers or len(found) != len(expected) or not all(map(_close, found, expected))


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-5)


def _numbers(name: str) -> Callable:
    return lambda model: getattr(model, name).flatten().tolist() if hasattr(model, name) else None


def _stride_in_1x1(model) -> bool | None:
    """Whether the first convolution of res3 has the stride; None if res3 has no bottleneck blocks."""
    backbone = getattr(model, "backbone", None)
    block: Any = next(iter(getattr(getattr(backbone, "bottom_up", backbone), "res3", ())), None)
    return block.conv1.stride[0] > 1 if hasattr(block, "conv3") else None


def _mask_temperature(model) -> float | None:
    mask_head: Any = getattr(getattr(model, "roi_heads", None), "mask_head", None)
    return float(getattr(mask_head.predictor, "temperature", 0.0)) if hasattr(mask_head, "predictor") else None


# The value of each setting in a model; None if it has no such part.
_IN_MODELS: dict[str, Callable] = {
    FORMAT: lambda model: getattr(model, "input_format", None),
    MEAN: _numbers("pixel_mean"),
    STD: _numbers("pixel_std"),
    STRIDE: _stride_in_1x1,
    MASK_TEMPERATURE: _mask_temperature,
}
