"""The model of a LazyConfig as config keys, and back."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode as CN
from omegaconf import DictConfig, ListConfig

from ...activations import activation_class, activation_names
from ...calibration import calibration_class, calibration_names
from ...config_files.keys import get
from ...config_files.names import ENGINE
from ...lazy_config.files import target_of
from ...modeling.box_predictor import ActivationOutputLayers
from ...modeling.roi_heads import LongTailCascadeROIHeads, LongTailROIHeads
from ...utils.errors import InputError, did_you_mean
from ...utils.keyword_options import keyword_options
from .checks import check_values, image_format
from .keys import HEADS, PREDICTOR
from .values import called, plain, select, set_key


def set_model(cfg: CN, lazy: DictConfig) -> None:
    heads = called(lazy, "model.roi_heads", (LongTailROIHeads, LongTailCascadeROIHeads))
    is_cascade = issubclass(heads, LongTailCascadeROIHeads)
    cfg.MODEL.ROI_HEADS.NAME = (LongTailCascadeROIHeads if is_cascade else LongTailROIHeads).__name__
    names = predictor_names(lazy)
    for name in names:
        called(lazy, name, (ActivationOutputLayers,))
    # The thresholds of a cascade are those of its last stage.
    for table, section in ((HEADS, "model.roi_heads"), (PREDICTOR, names[-1])):
        for key, (name, default) in table.items():
            value = select(lazy, f"{section}.{name}")
            set_key(cfg, key, default if value is None else value, f"{section}.{name}")
    _set_method(cfg, lazy, names, "activation", {activation_class(name): name for name in activation_names()})
    _set_method(cfg, lazy, names, "calibration", {calibration_class(name): name for name in calibration_names()})
    check_values(lazy, names)
    for key, name in {"PIXEL_MEAN": "model.pixel_mean", "PIXEL_STD": "model.pixel_std"}.items():
        cfg.MODEL[key] = list(select(lazy, name) or cfg.MODEL[key])
    set_key(cfg, "INPUT.FORMAT", image_format(lazy) or cfg.INPUT.FORMAT, "model.input_format")
    cfg.MODEL.MASK_ON = select(lazy, "model.roi_heads.mask_head") is not None
    set_key(cfg, "MODEL.ROI_MASK_HEAD.TEMPERATURE", select(lazy, "model.roi_heads.mask_head.temperature") or 0.0,
         "model.roi_heads.mask_head.temperature")  # fmt: skip
    _set_size_of_test_images(cfg, lazy)


def predictor_names(lazy: DictConfig) -> list[str]:
    """Keys of the box predictors: one, or one per stage of a cascade."""
    first = "model.roi_heads.box_predictor"
    heads = called(lazy, "model.roi_heads", (LongTailROIHeads, LongTailCascadeROIHeads))
    if not issubclass(heads, LongTailCascadeROIHeads):
        return [first]
    stages = select(lazy, f"{first}s")
    return [f"{first}s[{stage}]" for stage in range(len(stages) if isinstance(stages, ListConfig) else 1)]


def _set_method(cfg: CN, lazy: DictConfig, owners: list[str], part: str, names: dict[type, str]) -> None:
    """Set the activation or the calibration, which all box predictors have in common."""
    nodes = [select(lazy, f"{owner}.{part}") for owner in owners]
    first = next((index for index, node in enumerate(nodes) if node is not None), 0)
    node, where = nodes[first], f"{owners[first]}.{part}"
    if node is None and part == "calibration":
        return
    target = target_of(node) if isinstance(node, DictConfig) and "_target_" in node else None
    if target not in names:
        valid = ", ".join(sorted(cls.__name__ for cls in names))
        raise InputError(
            f"{where} of the LazyConfig must be L(...) of a registered class of balanced_lvis.{part}s, such as "
            f"L({next(iter(names)).__name__})(num_classes=...). Valid: {valid}."
        )
    options = _options(node)
    if any(node is None or target_of(node) is not target or _options(node) != options for node in nodes):
        raise InputError(f"The box predictors of the LazyConfig differ in {part}; it must be the same in all stages.")
    known = keyword_options(target)
    for option in options:
        if option not in known:
            remedy = f"{ENGINE}.MODEL.CLASS_PRIOR.FILE names the class prior" if option == "prior" else "correct it"
            raise InputError(
                f"{where} of the LazyConfig: {target.__name__} has no option {option!r} here; {remedy}."
                f"{did_you_mean(option, known)} Valid: {', '.join(known) or 'none'}."
            )
    head, name = f"MODEL.ROI_BOX_HEAD.{part.upper()}", names[target]
    set_key(cfg, f"{head}.NAME", name, where)
    for option, value in options.items():
        set_key(cfg, f"{head}.{name.upper()}.{option.upper()}", value, f"{where}.{option}")


def _options(node) -> dict[str, Any]:
    return {name: plain(node[name]) for name in node if name not in ("_target_", "num_classes")}


def _set_size_of_test_images(cfg: CN, lazy: DictConfig) -> None:
    """Size of test images, as a record of the run: that of the first ``ResizeShortestEdge``."""
    where = "dataloader.test.mapper.augmentations"
    found = select(lazy, where)
    for index, node in enumerate(found if isinstance(found, ListConfig) else ()):
        if isinstance(node, DictConfig) and "short_edge_length" in node:
            name, shortest = f"{where}.{index}", plain(node.short_edge_length)
            shortest = shortest[0] if isinstance(shortest, list) and shortest else shortest
            set_key(cfg, "INPUT.MIN_SIZE_TEST", shortest, f"{name}.short_edge_length")
            set_key(cfg, "INPUT.MAX_SIZE_TEST", node.get("max_size", cfg.INPUT.MAX_SIZE_TEST), f"{name}.max_size")
            return


def write_back(lazy: DictConfig, cfg: CN) -> None:
    """Set, in the model of a LazyConfig, the settings that commands may have changed in its config."""
    heads = lazy.model.roi_heads
    for key, (name, _) in HEADS.items():
        heads[name] = get(cfg, key)
    for predictor in predictors(lazy):
        for key, (name, _) in PREDICTOR.items():
            predictor[name] = get(cfg, key)


def predictors(lazy: DictConfig) -> list[DictConfig]:
    """The nodes of the box predictors: one, or one per stage of a cascade."""
    heads = lazy.model.roi_heads
    return list(heads.box_predictors) if "box_predictors" in heads else [heads.box_predictor]
