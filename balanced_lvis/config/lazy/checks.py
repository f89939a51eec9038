"""Checks of values in a LazyConfig that its parts would ignore, or that would fail after training has started."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig

from ...lazy_config.files import arguments_of, target_of
from ...utils.errors import InputError
from .values import select

MAPPERS = ("dataloader.train.mapper", "dataloader.test.mapper")
_IMAGE_FORMATS = ("BGR", "RGB")
_MASK_FORMATS = ("polygon", "bitmask")
# Arguments of Detectron2's box predictor that describe a loss, which is that of the activation here.
_OTHER_LOSSES = {
    "use_fed_loss": "L(Federated)(...), with the options classes_per_batch and power",
    "use_sigmoid_ce": "L(Sigmoid)(...)",
}
_RECOMPUTES = ("use_act_checkpoint", "use_checkpoint")  # of ViT, and of Swin


def check_values(lazy: DictConfig, predictors: Sequence[str]) -> None:
    """
    Check the values of a LazyConfig whose nodes are those of a model with balanced_lvis's heads.

    Args:
        lazy: the LazyConfig.
        predictors: keys of the box predictors: one, or one per stage of a cascade.

    Raises:
        InputError: naming the key, its value and the remedy.
    """
    if select(lazy, "model.proposal_generator") is None:
        raise InputError("model.proposal_generator of the LazyConfig is missing; set it to L(RPN)(...).")
    _check_numbers_of_classes(lazy, predictors)
    _check_image_formats(lazy)
    _check_pixels(lazy)


def check_training_values(lazy: DictConfig, predictors: Sequence[str]) -> None:
    """
    Check the values of a LazyConfig that matter in training only.

    Args:
        lazy, predictors: as for :func:`check_values`.

    Raises:
        InputError: naming the key, its value and the remedy.
    """
    if select(lazy, "train.max_iter") is None:
        raise InputError("The LazyConfig has no train.max_iter; set the number of iterations.")
    for name in predictors:
        _check_loss(lazy, name)
    _check_mappers(lazy)
    length = select(lazy, "lr_multiplier.warmup_length")
    if isinstance(length, (int, float)) and not 0 <= length <= 1:
        raise InputError(
            f"lr_multiplier.warmup_length of the LazyConfig is {length}; it is the share of iterations used "
            "for warm-up, from 0 to 1."
        )


def image_format(lazy: DictConfig) -> str | None:
    """The order of channels, which the model and the mappers have in common; None if none of them states it."""
    found = (select(lazy, name) for name in ("model.input_format", *(f"{mapper}.image_format" for mapper in MAPPERS)))
    return next((value for value in found if value is not None), None)


def checkpointing_option(lazy: DictConfig) -> str:
    """The option of a part of the backbone that recomputes activations, as an override; empty if there is none."""
    for name, node in _called_nodes(select(lazy, "model.backbone"), "model.backbone"):
        for option in _RECOMPUTES:
            if option in arguments_of(target_of(node)):
                return f"{name}.{option}=True"
    return ""


def _called_nodes(node: Any, name: str) -> Iterator[tuple[str, DictConfig]]:
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield name, node
        for key in map(str, node):
            yield from _called_nodes(node[key], f"{name}.{key}")


def _check_loss(lazy: DictConfig, predictor: str) -> None:
    # Without use_fed_loss, Detectron2 ignores the two other options of the federated loss.
    for name, remedy in _OTHER_LOSSES.items():
        if value := select(lazy, f"{predictor}.{name}"):
            raise InputError(
                f"{predictor}.{name} of the LazyConfig is {value}, but the loss is that of {predictor}.activation; "
                f"remove it. The same loss is the activation {remedy} of balanced_lvis.activations."
            )


def _check_numbers_of_classes(lazy: DictConfig, predictors: Sequence[str]) -> None:
    num_classes = select(lazy, "model.roi_heads.num_classes")
    parts = [*predictors, *(f"{name}.{part}" for name in predictors for part in ("activation", "calibration"))]
    for name in [*parts, "model.roi_heads.mask_head"]:
        found, is_mask_head = select(lazy, f"{name}.num_classes"), name.endswith("mask_head")
        if found is None or found == num_classes or (is_mask_head and found == 1):
            continue
        agnostic = ", or to 1 for masks that don't depend on the class" if is_mask_head else ""
        raise InputError(
            f"{name}.num_classes of the LazyConfig is {found}, but model.roi_heads.num_classes is {num_classes}; "
            f'set it to "${{model.roi_heads.num_classes}}"{agnostic}.'
        )


def _check_image_formats(lazy: DictConfig) -> None:
    names = ("model.input_format", *(f"{mapper}.image_format" for mapper in MAPPERS))
    stated = {name: value for name in names if (value := select(lazy, name)) is not None}
    for name, value in stated.items():
        if value not in _IMAGE_FORMATS:
            raise InputError(f"{name} of the LazyConfig is {value!r}; valid: {', '.join(_IMAGE_FORMATS)}.")
    if len(set(stated.values())) > 1:
        raise InputError(
            f"The LazyConfig has {' and '.join(f'{name} {value}' for name, value in stated.items())}; the model is "
            "trained, evaluated and used with one order of channels: set them to the same."
        )


def _check_mappers(lazy: DictConfig) -> None:
    for mapper, is_train in zip(MAPPERS, (True, False)):
        found = select(lazy, f"{mapper}.is_train")
        if found is not None and found is not is_train:
            raise InputError(f"{mapper}.is_train of the LazyConfig is {found}; it must be {is_train}.")
    node = select(lazy, MAPPERS[0])
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return  # reported where it is built
    masks, has_head = node.get("use_instance_mask", False), select(lazy, "model.roi_heads.mask_head") is not None
    if has_head and masks is not True and "use_instance_mask" in arguments_of(target_of(node)):
        raise InputError(
            f"{MAPPERS[0]}.use_instance_mask of the LazyConfig is {masks}, but the model has a mask head, which is "
            "trained with masks; set it to True, or model.roi_heads.mask_head to None."
        )
    if (found := node.get("instance_mask_format")) is not None and found not in _MASK_FORMATS:
        raise InputError(
            f"{MAPPERS[0]}.instance_mask_format of the LazyConfig is {found!r}; valid: {', '.join(_MASK_FORMATS)}."
        )


def _check_pixels(lazy: DictConfig) -> None:
    for name in ("pixel_mean", "pixel_std"):
        values = select(lazy, f"model.{name}")
        if values is None:
            continue
        lowest = 0.0 if name == "pixel_std" else -math.inf
        if not isinstance(values, (list, tuple, ListConfig)) or len(values) != 3 or not all(
            isinstance(value, (int, float)) and lowest < value < math.inf for value in values
        ):  # fmt: skip
            kind = "three positive numbers" if name == "pixel_std" else "three numbers"
            raise InputError(f"model.{name} of the LazyConfig is {values}; it must be {kind}, one per channel.")
