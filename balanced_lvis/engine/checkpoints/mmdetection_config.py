"""
The config in a checkpoint of mmdetection: Python source, which is parsed and never run.

Parameters don't show everything: the stride of a caffe-style ResNet, the normalisation of images and the coding of
boxes are in the config only.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping
from typing import Any

from ...utils.errors import InputError
from .settings import FORMAT, MASK_TEMPERATURE, MEAN, STD, STRIDE, TORCHVISION

_LONGEST = 1 << 20  # characters; published configs have about 10,000


def parse_config(text: str) -> dict:
    """
    The assignments of a config, with ``dict(...)`` as a dict.

    Args:
        text: Python source, as mmdetection writes it.

    Raises:
        ValueError: if it is not Python source.
    """
    if len(text) > _LONGEST:
        raise ValueError("too long")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's, on doubtful syntax
            parsed = ast.parse(text)
        assignments = [node for node in parsed.body if isinstance(node, ast.Assign)]
        named = [(node.targets[0], node.value) for node in assignments]
        return {target.id: _value(value) for target, value in named if isinstance(target, ast.Name)}
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {word.arg: _value(word.value) for word in node.keywords if word.arg}
    if isinstance(node, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
        return {key: _value(value) for key, value in zip(keys, node.values) if isinstance(key, str)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(element) for element in node.elts]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):  # not a literal, hence of no value that is expected
        return ast.unparse(node)


def config_in(meta: Any) -> dict | None:
    """
    The config in the entry "meta" of a checkpoint: of version 2 under "config", of version 3 under "cfg".

    Returns:
        its assignments; empty if there is no config, None if it can't be parsed.
    """
    found = [meta[key] for key in ("cfg", "config") if meta.get(key)]
    text = next((value for value in found if isinstance(value, str)), None)
    if text is None:
        return None if found else {}
    try:
        return parse_config(text)
    except ValueError:
        return None


def class_names_in(meta: Mapping) -> list[str]:
    """Class names in the entry "meta" of a checkpoint; empty if there are none."""
    inner = meta.get("dataset_meta")
    for node in (meta, inner if isinstance(inner, Mapping) else {}):
        names = next((node[key] for key in ("CLASSES", "classes") if key in node), None)
        if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
            return list(names)
    return []


def settings_in(config: Mapping) -> dict:
    """
    Detectron2's config values of what a checkpoint's config says on images, strides and the mask predictor.

    What it doesn't say has the value that mmdetection's published configs have.
    """
    backbone, mask_head = _node(config, "model.backbone"), _node(config, "model.roi_head.mask_head")
    # Images are read as BGR. Version 3 normalises them in the model, version 2 in the data pipeline.
    version_3 = _node(config, "model.data_preprocessor") or _node(config, "data_preprocessor")
    version_2 = _node(config, "img_norm_cfg")
    is_rgb = version_3.get("bgr_to_rgb", False) if version_3 else version_2.get("to_rgb", True)
    pixels = version_3 or version_2
    settings = {
        FORMAT: "RGB" if is_rgb else "BGR",
        MEAN: _numbers(pixels.get("mean")) or TORCHVISION[MEAN],
        STD: _numbers(pixels.get("std")) or TORCHVISION[STD],
        STRIDE: backbone.get("style") == "caffe",
    }
    predictor = mask_head.get("predictor_cfg")
    if isinstance(predictor, dict) and predictor.get("type") == "NormedConv2d":
        settings[MASK_TEMPERATURE] = _temperature(predictor)
    return settings


def check_supported(source: str, config: Mapping, seesaw: bool) -> None:
    """
    Check that what a config says on the model is the same in Detectron2's configs of this package.

    Args:
        source: name of the file, for messages.
        config: of the checkpoint; empty if unknown.
        seesaw: whether the classifier is that of Seesaw Loss.

    Raises:
        InputError: naming the first difference: another value, or an option that the published configs don't have.
    """
    if not config:
        return
    model = _node(config, "model")
    if not model:
        raise InputError(f"{source!r} has a config of mmdetection without a model; remove 'config' from its 'meta'.")
    # Some versions have these parts outside the model. The test_cfg of version 3 there is that of the loop.
    moved = {name: _node(config, name) for name in ("data_preprocessor", "test_cfg")}
    model = {**{name: node for name, node in moved.items() if node and node.get("type") != "TestLoop"}, **model}
    if model.get("roi_head") and isinstance(heads := model["roi_head"], dict) and heads.get("mask_head", {}) is None:
        model["roi_head"] = {name: value for name, value in heads.items() if not name.startswith("mask_")}
    _check_node(source, model, "model", {**_SUPPORTED, **(_SEESAW if seesaw else _PLAIN)})


def _check_node(source: str, node: Mapping, path: str, supported: Mapping[str, tuple]) -> None:
    free = {"_scope_", *_FREE.get(path, "").split()}
    for name, value in node.items():
        key, is_node = f"{path}.{name}", isinstance(value, Mapping)
        if key in supported:
            found = value.removeprefix("mmdet.") if isinstance(value, str) else value
            if found not in supported[key]:
                raise InputError(
                    f"{source!r} can't be converted: its config has {key} = {found!r:.100}; only "
                    f"{' and '.join(map(repr, supported[key]))} can be converted."
                )
        elif name not in free and not (is_node and any(other.startswith(f"{key}.") for other in supported)):
            raise InputError(
                f"{source!r} can't be converted: its config has {key} = {value!r:.100}, which published configs don't "
                "have, so that Detectron2 might compute something else."
            )
        elif is_node and name not in free:
            _check_node(source, value, key, supported)


_NO_VALUE = (None,)
_BACKBONE, _NECK, _RPN = "model.backbone", "model.neck", "model.rpn_head"
_BOX_HEAD, _MASK_HEAD = "model.roi_head.bbox_head", "model.roi_head.mask_head"


def _roi_extractor(path: str, size: int) -> dict[str, tuple]:
    layer = f"{path}.roi_layer"
    return {
        f"{path}.type": ("SingleRoIExtractor",),
        f"{path}.featmap_strides": ([4, 8, 16, 32],),
        f"{path}.finest_scale": (56,),
        f"{layer}.type": ("RoIAlign",),
        f"{layer}.output_size": (size, [size, size]),
        f"{layer}.out_size": (size,),  # its name in early configs of version 2, as that of the next
        f"{layer}.sample_num": (0,),
        f"{layer}.sampling_ratio": (0,),
        f"{layer}.aligned": (True,),
        f"{layer}.pool_mode": ("avg",),
    }


def _box_coder(path: str, stds: list[float]) -> dict[str, tuple]:
    return {
        f"{path}.type": ("DeltaXYWHBBoxCoder",),
        f"{path}.target_means": ([0.0] * 4,),
        f"{path}.target_stds": (stds,),
        f"{path}.clip_border": (True,),
        f"{path}.add_ctr_clamp": (False,),
    }


def _normalized(path: str) -> dict[str, tuple]:
    return {f"{path}.power": (1.0,), f"{path}.eps": (1e-6,), f"{path}.norm_over_kernel": (False,)}


# The values that can be converted: those of the published configs, and of what mmdetection does where they say nothing.
_SUPPORTED: dict[str, tuple] = {
    "model.type": ("MaskRCNN", "FasterRCNN"),
    "model.data_preprocessor.type": ("DetDataPreprocessor",),
    "model.data_preprocessor.pad_size_divisor": (32,),
    "model.data_preprocessor.pad_value": (0,),
    "model.data_preprocessor.rgb_to_bgr": (False,),
    f"{_BACKBONE}.type": ("ResNet", "ResNeXt"),
    f"{_BACKBONE}.num_stages": (4,),
    f"{_BACKBONE}.out_indices": ([0, 1, 2, 3],),
    f"{_BACKBONE}.strides": ([1, 2, 2, 2],),
    f"{_BACKBONE}.dilations": ([1, 1, 1, 1],),
    f"{_BACKBONE}.style": ("pytorch", "caffe"),
    f"{_BACKBONE}.deep_stem": (False,),
    f"{_BACKBONE}.avg_down": (False,),
    f"{_BACKBONE}.conv_cfg": _NO_VALUE,
    f"{_BACKBONE}.norm_cfg.type": ("BN", "SyncBN"),
    f"{_BACKBONE}.norm_cfg.eps": (1e-5,),
    f"{_BACKBONE}.dcn": _NO_VALUE,
    f"{_BACKBONE}.plugins": _NO_VALUE,
    f"{_NECK}.type": ("FPN",),
    f"{_NECK}.num_outs": (5,),
    f"{_NECK}.start_level": (0,),
    f"{_NECK}.end_level": (-1, 3),
    f"{_NECK}.add_extra_convs": (False,),
    f"{_NECK}.conv_cfg": _NO_VALUE,
    f"{_NECK}.norm_cfg": _NO_VALUE,
    f"{_NECK}.act_cfg": _NO_VALUE,
    f"{_NECK}.upsample_cfg.mode": ("nearest",),
    f"{_RPN}.type": ("RPNHead",),
    f"{_RPN}.num_convs": (1,),
    f"{_RPN}.reg_decoded_bbox": (False,),
    f"{_RPN}.anchor_generator.type": ("AnchorGenerator",),
    f"{_RPN}.anchor_generator.scales": ([8],),
    f"{_RPN}.anchor_generator.ratios": ([0.5, 1.0, 2.0],),
    f"{_RPN}.anchor_generator.strides": ([4, 8, 16, 32, 64],),
    f"{_RPN}.anchor_generator.base_sizes": (None, [4, 8, 16, 32, 64]),
    f"{_RPN}.anchor_generator.octave_base_scale": _NO_VALUE,
    f"{_RPN}.anchor_generator.scales_per_octave": _NO_VALUE,
    f"{_RPN}.anchor_generator.centers": _NO_VALUE,
    f"{_RPN}.anchor_generator.center_offset": (0.0,),
    **_box_coder(f"{_RPN}.bbox_coder", [1.0] * 4),
    f"{_RPN}.loss_cls.use_sigmoid": (True,),
    "model.roi_head.type": ("StandardRoIHead",),
    "model.roi_head.shared_head": _NO_VALUE,
    **_roi_extractor("model.roi_head.bbox_roi_extractor", 7),
    **_roi_extractor("model.roi_head.mask_roi_extractor", 14),
    f"{_BOX_HEAD}.type": ("Shared2FCBBoxHead", "ConvFCBBoxHead"),
    f"{_BOX_HEAD}.with_avg_pool": (False,),
    f"{_BOX_HEAD}.predict_box_type": ("hbox",),
    f"{_BOX_HEAD}.reg_decoded_bbox": (False,),
    f"{_BOX_HEAD}.reg_predictor_cfg.type": ("Linear",),
    **_box_coder(f"{_BOX_HEAD}.bbox_coder", [0.1, 0.1, 0.2, 0.2]),
    **_normalized(f"{_BOX_HEAD}.cls_predictor_cfg"),
    f"{_MASK_HEAD}.type": ("FCNMaskHead",),
    f"{_MASK_HEAD}.upsample_cfg.type": ("deconv",),
    f"{_MASK_HEAD}.upsample_cfg.scale_factor": (2,),
    f"{_MASK_HEAD}.conv_cfg": _NO_VALUE,
    f"{_MASK_HEAD}.norm_cfg": _NO_VALUE,
    f"{_MASK_HEAD}.predictor_cfg.type": ("Conv", "NormedConv2d"),
    **_normalized(f"{_MASK_HEAD}.predictor_cfg"),
    "model.test_cfg.rpn.nms.type": ("nms",),
    "model.test_cfg.rpn.nms.class_agnostic": (False,),
    "model.test_cfg.rpn.nms_across_levels": (False,),
    "model.test_cfg.rcnn.nms.type": ("nms",),
    "model.test_cfg.rcnn.nms.class_agnostic": (False,),
}
_PLAIN = {
    f"{_BOX_HEAD}.loss_cls.type": ("CrossEntropyLoss",),
    f"{_BOX_HEAD}.loss_cls.use_sigmoid": (False,),
    f"{_BOX_HEAD}.cls_predictor_cfg.type": ("Linear",),
}
_SEESAW = {
    f"{_BOX_HEAD}.loss_cls.type": ("SeesawLoss",),
    f"{_BOX_HEAD}.cls_predictor_cfg.type": ("NormedLinear",),
    f"{_BOX_HEAD}.cls_predictor_cfg.tempearture": (20,),
}
# Other options of these parts. They concern training only, are seen in the shapes of tensors, become settings, or are
# thresholds, which each config sets for itself.
_FREE = {
    "model": "pretrained init_cfg train_cfg",
    "model.data_preprocessor": (
        "mean std bgr_to_rgb pad_mask mask_pad_value pad_seg seg_pad_value boxtype2tensor non_blocking batch_augments"
    ),
    _BACKBONE: (
        "depth in_channels stem_channels base_channels groups base_width frozen_stages norm_eval stage_with_dcn "
        "with_cp zero_init_residual pretrained init_cfg"
    ),
    f"{_BACKBONE}.norm_cfg": "requires_grad momentum",
    _NECK: ("in_channels out_channels extra_convs_on_inputs relu_before_extra_convs no_norm_on_lateral init_cfg"),
    _RPN: "in_channels feat_channels num_classes loss_bbox init_cfg train_cfg test_cfg",
    f"{_RPN}.anchor_generator": "scale_major use_box_type",
    f"{_RPN}.bbox_coder": "ctr_clamp use_box_type",
    f"{_RPN}.loss_cls": "type loss_weight reduction class_weight avg_non_ignore",
    "model.roi_head": "pretrained init_cfg train_cfg test_cfg",
    "model.roi_head.bbox_roi_extractor": "out_channels init_cfg",
    "model.roi_head.bbox_roi_extractor.roi_layer": "use_torchvision",
    "model.roi_head.mask_roi_extractor": "out_channels init_cfg",
    "model.roi_head.mask_roi_extractor.roi_layer": "use_torchvision",
    _BOX_HEAD: (
        "with_cls with_reg roi_feat_size in_channels num_classes reg_class_agnostic num_shared_convs num_shared_fcs "
        "num_cls_convs num_cls_fcs num_reg_convs num_reg_fcs conv_out_channels fc_out_channels conv_cfg norm_cfg "
        "loss_bbox init_cfg"
    ),
    f"{_BOX_HEAD}.bbox_coder": "ctr_clamp use_box_type",
    f"{_BOX_HEAD}.loss_cls": (
        "use_sigmoid p q num_classes eps return_dict loss_weight reduction class_weight avg_non_ignore"
    ),
    _MASK_HEAD: (
        "num_convs roi_feat_size in_channels conv_kernel_size conv_out_channels num_classes class_agnostic loss_mask "
        "init_cfg"
    ),
    f"{_MASK_HEAD}.predictor_cfg": "tempearture",
    "model.test_cfg.rpn": "nms_pre nms_post max_num max_per_img nms_thr min_bbox_size",
    "model.test_cfg.rpn.nms": "iou_threshold iou_thr split_thr",
    "model.test_cfg.rcnn": "score_thr max_per_img mask_thr_binary",
    "model.test_cfg.rcnn.nms": "iou_threshold iou_thr split_thr",
}


def _node(config: Mapping, path: str) -> dict:
    """The dict at a path of names; empty if there is none."""
    node: Any = config
    for name in path.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node if isinstance(node, dict) else {}


def _temperature(predictor: Mapping) -> float:
    value = predictor.get("tempearture", 20)  # spelt so in mmdetection
    return float(value) if _is_number(value) else 20.0


def _numbers(values) -> list[float] | None:
    """Three numbers; None for anything else."""
    is_valid = isinstance(values, list) and len(values) == 3 and all(map(_is_number, values))
    return [float(value) for value in values] if is_valid else None


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 1e9  # larger integers can't become a float
