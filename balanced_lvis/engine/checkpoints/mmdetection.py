"""
Mask and Faster R-CNN of mmdetection, version 2 or 3, in Detectron2's layout.

The models are the same, and so are the orders of classes (the background is the last), anchors, box deltas and
channels. Names, images and the convolution with the stride differ (:mod:`.settings`). Where the programs compute
differently:

* Sides of boxes shrink by a factor of 1000/16 at most in mmdetection, and without limit in Detectron2.
* A RoI's level is computed with 1e-6 in mmdetection and with 1e-8 in Detectron2, so that a RoI of exactly 112, 224 or
  448 pixels could have another one.
* mmdetection resizes images with OpenCV, Detectron2 with Pillow, which smooths when it shrinks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.modeling import build_model
from torch import Tensor

from ...activations import state_keys
from ...config import load_config
from ...config_files.names import shipped_config
from ...data.annotations.class_names import class_names_of
from ...utils.errors import InputError
from .mmdetection_config import check_supported, class_names_in, config_in, settings_in
from .other_layouts import Renamed, Rule, check_distinct, check_shapes, rename
from .resnets import resnet_name, resnet_rules, resnet_settings
from .settings import FORMAT, MASK_TEMPERATURE, MEAN, STD

SEESAW = "seesaw"
_BACKBONE = "backbone.bottom_up."
_WB = "(weight|bias)"
_CLASSIFIER = "roi_head.bbox_head.fc_cls.weight"
_COUNTS = "roi_heads.box_predictor.activation.seen"  # of Seesaw Loss
# mmdetection's names of LVIS classes that the annotations, and so Detectron2, spell differently.
_RESPELT = {"bull": "horned_cow", "speaker_(stereo_equipment)": "speaker_(stero_equipment)"}


def _plus(shift: int, template: str):
    """A name whose number is that of the match's first group plus ``shift``."""
    return lambda match: match.expand(template).replace("#", str(int(match[1]) + shift))


_RULES: list[Rule] = [
    *resnet_rules("backbone.", _BACKBONE),
    (rf"neck\.lateral_convs\.(\d+)\.conv\.{_WB}", _plus(2, r"backbone.fpn_lateral#.\2")),
    (rf"neck\.fpn_convs\.(\d+)\.conv\.{_WB}", _plus(2, r"backbone.fpn_output#.\2")),
    (rf"rpn_head\.rpn_conv\.{_WB}", r"proposal_generator.rpn_head.conv.\1"),
    (rf"rpn_head\.rpn_cls\.{_WB}", r"proposal_generator.rpn_head.objectness_logits.\1"),
    (rf"rpn_head\.rpn_reg\.{_WB}", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    (rf"roi_head\.bbox_head\.shared_fcs\.(\d+)\.{_WB}", _plus(1, r"roi_heads.box_head.fc#.\2")),
    (rf"roi_head\.bbox_head\.fc_cls\.{_WB}", r"roi_heads.box_predictor.cls_score.\1"),
    (rf"roi_head\.bbox_head\.fc_reg\.{_WB}", r"roi_heads.box_predictor.bbox_pred.\1"),
    (r"roi_head\.bbox_head\.loss_cls\.cum_samples", _COUNTS),
    (rf"roi_head\.mask_head\.convs\.(\d+)\.conv\.{_WB}", _plus(1, r"roi_heads.mask_head.mask_fcn#.\2")),
    (rf"roi_head\.mask_head\.upsample\.{_WB}", r"roi_heads.mask_head.deconv.\1"),
    (rf"roi_head\.mask_head\.conv_logits\.{_WB}", r"roi_heads.mask_head.predictor.\1"),
]


def is_mmdetection(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of a detector of mmdetection, of any version and kind."""
    heads = re.compile(r"(roi_head|bbox_head|mask_head)\.|rpn_head\.rpn_")
    return any(name.startswith("neck.") for name in state) or any(heads.match(name) for name in state)


def convert_mmdetection(source: str, state: Mapping[str, Tensor], meta: Any, num_classes: int = 0) -> Renamed:
    """
    A Mask or Faster R-CNN of mmdetection with the names of Detectron2's.

    Args:
        source: name of the file, for messages.
        state: tensors by name in mmdetection.
        meta: entry "meta" of the checkpoint, with config and class names; None if it has none.
        num_classes: K, needed only if neither the class names nor class-specific boxes or masks give it; else 0.

    Returns:
        the tensors, all of those of the model that the settings describe.

    Raises:
        InputError: if Detectron2 doesn't have the model, or tensors are missing or have other shapes; the message lists
            them.
    """
    meta = meta if isinstance(meta, Mapping) else {}
    _check_kind(source, state)
    found = rename(source, "mmdetection", state, _RULES)
    found.class_names = _lvis_spelling(class_names_in(meta))
    check_distinct(source, found.class_names)
    outputs = len(state[_CLASSIFIER]) if state[_CLASSIFIER].dim() else 0
    num_classes = num_classes or len(found.class_names) or _classes_of_heads(found.state)
    is_seesaw = _is_seesaw(source, outputs, num_classes)
    parsed = config_in(meta)
    config = parsed or {}
    check_supported(source, config, is_seesaw)
    architecture = resnet_settings(source, found.state, _BACKBONE)
    heads = _head_settings(found.state, num_classes, SEESAW if is_seesaw else "softmax")
    if (counts := found.state.get(_COUNTS)) is not None and counts.dim() == 1:  # the last one is the background's
        found.state[_COUNTS] = counts[:num_classes].double().round().long()
    _check_complete(source, found, {**architecture, **heads}, resnet_name(architecture))
    found.settings = {**settings_in(config), **architecture, **heads}
    if is_seesaw and config:  # the configs of Seesaw Loss have either predictor
        found.settings.setdefault(MASK_TEMPERATURE, 0.0)
    found.steps = [
        f"{resnet_name(architecture)} detector of mmdetection: names changed to those of Detectron2",
        _remark(found.settings, parsed),
    ]
    return found


def _check_kind(source: str, state: Mapping[str, Tensor]) -> None:
    """
    Raises:
        InputError: for detectors that are not Mask or Faster R-CNN of version 2 or 3.
    """
    if any(re.match(r"roi_head\.(bbox|mask)_head\.\d", name) for name in state):
        raise InputError(
            f"{source!r} is a Cascade R-CNN or HTC of mmdetection, whose heads are in several stages; only Mask and "
            "Faster R-CNN can be converted."
        )
    if any(re.match(r"bbox_head\.(\d+\.)?fc_cls\.", name) for name in state):
        raise InputError(
            f"{source!r} is of mmdetection 1, which has the background as its first class and other box deltas; "
            "convert it with mmdetection's tools/model_converters/upgrade_model_version.py first."
        )
    if _CLASSIFIER not in state:
        raise InputError(
            f"{source!r} is a detector of mmdetection without {_CLASSIFIER}; only Mask and Faster R-CNN can be "
            "converted."
        )


def _lvis_spelling(names: list[str]) -> list[str]:
    """The names of LVIS if they are mmdetection's spelling of them, else ``names``."""
    respelt = [_RESPELT.get(name, name) for name in names]
    return respelt if respelt in (class_names_of(f"lvis_{version}_train") for version in ("v1", "v0.5")) else names


def _classes_of_heads(state: Mapping[str, Tensor]) -> int:
    """K, from heads with outputs per class; 0 if there are none."""
    of_masks, of_boxes = (
        state.get(f"roi_heads.{name}.bias", torch.zeros(0)).numel() // parts
        for name, parts in (("mask_head.predictor", 1), ("box_predictor.bbox_pred", 4))
    )
    return of_masks if of_masks > 1 else of_boxes if of_boxes > 1 else 0


def _is_seesaw(source: str, outputs: int, num_classes: int) -> bool:
    if not num_classes:
        raise InputError(
            f"{source!r} has a classifier of {outputs} outputs, but neither class names nor class-specific boxes or "
            "masks; give the classes (--classes NAME_OR_JSON) or their number (--num-classes)."
        )
    if outputs == num_classes + 1:
        return False
    if outputs != num_classes + 2:
        raise InputError(
            f"{source!r} has a classifier of {outputs} outputs for {num_classes} classes; those of mmdetection have "
            f"{num_classes + 1}, or {num_classes + 2} with Seesaw Loss. Give the classes that it was trained with."
        )
    return True


def _head_settings(state: Mapping[str, Tensor], num_classes: int, activation: str) -> dict:
    """Config values of the heads, where they may differ."""
    boxes, masks = (state.get(f"roi_heads.{name}.bias") for name in ("box_predictor.bbox_pred", "mask_head.predictor"))
    agnostic_boxes = num_classes > 1 and boxes is not None and boxes.numel() == 4
    agnostic_masks = num_classes > 1 and masks is not None and masks.numel() == 1
    return {
        "MODEL.ROI_HEADS.NUM_CLASSES": num_classes,
        "MODEL.ROI_BOX_HEAD.ACTIVATION.NAME": activation,
        **({"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True} if agnostic_boxes else {}),
        **({"MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True} if agnostic_masks else {}),
        **({"MODEL.MASK_ON": False} if masks is None else {}),
    }


def model_config(settings: Mapping):
    """The LVIS config with the settings of a converted checkpoint."""
    return load_config(shipped_config("base/lvis_v1") or "", [word for pair in settings.items() for word in pair])


def _check_complete(source: str, found: Renamed, settings: Mapping, name: str) -> None:
    """Compare with the model of the LVIS configs and these settings, which is built without memory for its tensors."""
    with torch.device("meta"):
        model = build_model(model_config({**settings, "MODEL.DEVICE": "meta"}))
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    check_shapes(source, found, shapes, f"{name} detector of mmdetection", optional=state_keys(model))


def _remark(settings: Mapping, config: dict | None) -> str:
    what = f"images {settings[FORMAT]}, mean {settings[MEAN]}, standard deviation {settings[STD]}"
    if config:
        return what
    reason = "the config in the file can't be parsed" if config is None else "the file has no config"
    return f"{what}: assumed, as {reason}"
