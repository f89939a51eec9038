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


def config_in(meta: Any) -> dict:
    """
    The config in the entry "meta" of a checkpoint: of version 2 under "config", of version 3 under "cfg".

    Returns:
        its assignments; empty if there is none that can be read.
    """
    text = next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)), "")
    try:
        return parse_config(text)
    except ValueError:
        return {}


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
    version_3, version_2 = _node(config, "model.data_preprocessor"), _node(config, "img_norm_cfg")
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
        InputError: naming the first difference.
    """
    if config and not _node(config, "model"):
        raise InputError(f"{source!r} has a config of mmdetection without a model; remove 'config' from its 'meta'.")
    for key, expected in {**_SUPPORTED, **(_SEESAW if seesaw else _PLAIN)}.items():
        parent, _, name = key.rpartition(".")
        found = _node(config, parent).get(name, expected[0])
        if found not in expected:
            raise InputError(
                f"{source!r} can't be converted: its config has {key} = {found!r:.100}; only "
                f"{' and '.join(map(repr, expected))} can be converted."
            )
    predictor = _node(config, f"{_BOX_HEAD}.cls_predictor_cfg")
    if seesaw and _temperature(predictor) != 20:
        raise InputError(
            f"{source!r} can't be converted: its classifier has the temperature {_temperature(predictor)}, not 20."
        )


_BOX_HEAD = "model.roi_head.bbox_head"
# The published values; the first of each is also that of a config that doesn't name it.
_SUPPORTED: dict[str, tuple] = {
    "model.type": ("MaskRCNN", "FasterRCNN"),
    "model.backbone.type": ("ResNet", "ResNeXt"),
    "model.neck.type": ("FPN",),
    "model.neck.num_outs": (5,),
    "model.rpn_head.type": ("RPNHead",),
    "model.rpn_head.anchor_generator.scales": ([8],),
    "model.rpn_head.anchor_generator.ratios": ([0.5, 1.0, 2.0],),
    "model.rpn_head.anchor_generator.strides": ([4, 8, 16, 32, 64],),
    "model.rpn_head.anchor_generator.center_offset": (0.0,),
    "model.rpn_head.bbox_coder.target_means": ([0.0] * 4,),
    "model.rpn_head.bbox_coder.target_stds": ([1.0] * 4,),
    "model.rpn_head.loss_cls.use_sigmoid": (True,),
    "model.roi_head.type": ("StandardRoIHead",),
    "model.roi_head.bbox_roi_extractor.roi_layer.type": ("RoIAlign",),
    "model.roi_head.bbox_roi_extractor.roi_layer.aligned": (True,),
    "model.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio": (0,),
    "model.roi_head.bbox_roi_extractor.finest_scale": (56,),
    "model.roi_head.mask_roi_extractor.roi_layer.type": ("RoIAlign",),
    "model.roi_head.mask_roi_extractor.roi_layer.aligned": (True,),
    "model.roi_head.mask_roi_extractor.roi_layer.sampling_ratio": (0,),
    "model.roi_head.mask_roi_extractor.finest_scale": (56,),
    f"{_BOX_HEAD}.bbox_coder.target_means": ([0.0] * 4,),
    f"{_BOX_HEAD}.bbox_coder.target_stds": ([0.1, 0.1, 0.2, 0.2],),
    f"{_BOX_HEAD}.reg_decoded_bbox": (False,),
}
_PLAIN = {
    f"{_BOX_HEAD}.loss_cls.type": ("CrossEntropyLoss",),
    f"{_BOX_HEAD}.loss_cls.use_sigmoid": (False,),
    f"{_BOX_HEAD}.cls_predictor_cfg.type": ("Linear",),
}
_SEESAW = {
    f"{_BOX_HEAD}.loss_cls.type": ("SeesawLoss",),
    f"{_BOX_HEAD}.cls_predictor_cfg.type": ("NormedLinear",),
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
