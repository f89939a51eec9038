"""Saves a failed training step (batch, weights, random states) and replays it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ..config import load_config
from ..priors import ClassPrior
from ..untrusted.torch_file import load_torch_file
from ..utils.errors import InputError
from ..utils.io import replacing
from ..utils.random_state import set_states
from ..utils.run_files import CONFIG, SAVED_PRIOR
from .precision import autocast, autocast_dtype

_REMEDY = "pass an unchanged file OUTPUT_DIR/diagnostics/iteration_*_rank*.pth."
_PLAIN = (str, int, float, bool, type(None), Tensor)


def save_diagnostics(
    path: str | os.PathLike, model: nn.Module, batches: list[list[dict]], states: dict, *, iteration: int,
    losses: dict[str, float],
) -> None:  # fmt: skip
    """
    Save a step for :func:`replay`. The file contains only plain values and tensors.

    Args:
        path: the file to write.
        model: the model with the weights from before the step.
        batches: batches of the step, from the data loader.
        states: random states from before the step, of :func:`balanced_lvis.utils.random_state.current_states`.
        iteration: number of the iteration.
        losses: the losses of the step by name.
    """
    content = {
        "iteration": iteration,
        "losses": losses,
        "batches": [[_plain_record(record) for record in batch] for batch in batches],
        "random_states": states,
        "model": {name: tensor.cpu() for name, tensor in model.state_dict().items()},
    }
    with replacing(path, "wb") as file:
        torch.save(content, file)


@dataclass
class Replay:
    """
    The results of a replayed step.

    Attributes:
        iteration: number of the iteration.
        recorded: losses by name, saved with the step.
        losses: losses by name of each batch, from the replay.
        alone: name and losses of each image as a separate batch, with other random numbers than in the step.
        module: name of the first module of the forward pass with an output that is not finite; None if there is none.
        weights: names of parameters and buffers that are not finite.
        gradients: names of parameters with a gradient that is not finite.
    """

    iteration: int
    recorded: dict[str, float]
    losses: list[dict[str, float]]
    alone: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    module: str | None = None
    weights: list[str] = field(default_factory=list)
    gradients: list[str] = field(default_factory=list)


def replay(path: str | os.PathLike, config_file: str | os.PathLike = "", opts: list[str] | tuple = ()) -> Replay:
    """
    Replay a step that :func:`save_diagnostics` has saved, with the saved weights.

    Args:
        path: the saved step.
        config_file: config of the run; empty for ``config.yaml`` in the parent folder of the file's folder.
        opts: ``KEY VALUE`` overrides of the config, as a flat list.

    Raises:
        InputError: if the file is not a saved step, or doesn't fit the config's model.
    """
    content = _load(path)
    output_dir = os.path.dirname(os.path.dirname(os.path.abspath(path)))
    config_file = config_file or os.path.join(output_dir, CONFIG)
    cfg = load_config(config_file, opts)
    _use_saved_prior(cfg, (os.path.dirname(config_file) or output_dir, output_dir))
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    try:
        model.load_state_dict(content["model"])
    except RuntimeError as error:
        raise InputError(
            f"{os.fspath(path)!r} doesn't fit the model of {config_file}: {error}. Pass the run's config as "
            "--config-file."
        ) from error
    batches = _batches(path, content["batches"])
    named = [*model.named_parameters(), *model.named_buffers()]
    found = Replay(content["iteration"], content["losses"], [])
    found.weights = [name for name, tensor in named if not tensor.isfinite().all()]
    model.train()
    dtype = autocast_dtype(cfg)
    set_states(content["random_states"])
    with EventStorage(content["iteration"]):
        with _first_not_finite(model, found):
            for batch in batches:
                losses = _losses(model, batch, dtype)
                found.losses.append(_numbers(losses))
                total: Any = sum(losses.values())
                total.backward()
        found.gradients = [
            name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
        ]
        with torch.no_grad():
            for record in (record for batch in batches for record in batch):
                found.alone.append((str(record.get("file_name")), _numbers(_losses(model, [record], dtype))))
    return found


def _use_saved_prior(cfg, folders: Iterable[str]) -> None:
    """Use the class prior saved by the run, so that its datasets needn't be available or registered."""
    if not cfg.MODEL.CLASS_PRIOR.FILE:
        paths = (os.path.join(folder, SAVED_PRIOR) for folder in folders)
        cfg.MODEL.CLASS_PRIOR.FILE = next(filter(os.path.isfile, paths), "")
    if not cfg.MODEL.ROI_HEADS.NUM_CLASSES and cfg.MODEL.CLASS_PRIOR.FILE:
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = ClassPrior.load(cfg.MODEL.CLASS_PRIOR.FILE).num_classes


def _losses(model: nn.Module, batch: list[dict], dtype: torch.dtype | None) -> dict[str, Tensor]:
    try:
        with autocast(next(model.parameters()).device.type, dtype):
            return model(batch)
    except FloatingPointError:  # raised by Detectron2 for proposals that are not finite
        return {"proposals": torch.full((), math.nan, requires_grad=True)}


def _numbers(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(loss.detach()) for name, loss in losses.items()}


class _first_not_finite:  # noqa: N801
    """Context that stores the name of the first module with an output that is not finite in ``found.module``."""

    def __init__(self, model: nn.Module, found: Replay):
        # Leaf modules only: their parents come after them.
        self._leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
        self._found = found

    def __enter__(self):
        self._hooks = [module.register_forward_hook(self._look(name)) for name, module in self._leaves]

    def _look(self, name: str):
        def look(module, inputs, output):
            is_bad = isinstance(output, Tensor) and output.is_floating_point() and not output.isfinite().all()
            if is_bad and self._found.module is None:
                self._found.module = name

        return look

    def __exit__(self, *exception):
        for hook in self._hooks:
            hook.remove()


def _load(path) -> dict:
    try:
        content = load_torch_file(path)
    except OSError as error:
        raise InputError(
            f"{os.fspath(path)!r} can't be read: {error.strerror}. Check the path and its permissions."
        ) from error
    except InputError:
        raise
    except Exception as error:  # torch, pickle and zipfile raise different errors for a broken file
        raise InputError(
            f"{os.fspath(path)!r} is not a saved training step ({type(error).__name__}); {_REMEDY}"
        ) from error
    wanted = {"iteration", "losses", "batches", "random_states", "model"}
    if not isinstance(content, dict) or wanted - content.keys():
        raise InputError(f"{os.fspath(path)!r} is not a saved training step; {_REMEDY}")
    return content


def _batches(path, plain) -> list[list[dict]]:
    try:
        return [[_record(record) for record in batch] for batch in plain]
    except Exception as error:  # from another program, or edited: any error is possible
        raise InputError(
            f"{os.fspath(path)!r} contains invalid batches ({type(error).__name__}: {error}); {_REMEDY}"
        ) from error


def _plain_record(record: dict) -> dict:
    """A mapped record as plain values, without values that can't be converted."""
    plain = {key: value for key, value in record.items() if isinstance(value, _PLAIN)}
    return {**plain, **{key: _plain(value) for key, value in record.items() if isinstance(value, Instances)}}


def _plain(instances: Instances) -> dict:
    found = {name: (_ENCODERS.get(type(value)), value) for name, value in instances.get_fields().items()}
    fields = {name: encode(value) for name, (encode, value) in found.items() if encode is not None}
    return {"image_size": tuple(instances.image_size), "fields": fields}


def _record(plain: dict) -> dict:
    return {key: _instances(value) if isinstance(value, dict) else value for key, value in plain.items()}


def _instances(plain: dict) -> Instances:
    fields = {name: _DECODERS[kind](value) for name, (kind, value) in plain["fields"].items()}
    return Instances(tuple(plain["image_size"]), **fields)


def _polygons(tensors: list[list[Tensor]]) -> PolygonMasks:
    return PolygonMasks([[np.asarray(polygon) for polygon in polygons] for polygons in tensors])


_ENCODERS = {
    Tensor: lambda tensor: ("tensor", tensor),
    Boxes: lambda boxes: ("boxes", boxes.tensor),
    BitMasks: lambda masks: ("bitmasks", masks.tensor),
    Keypoints: lambda keypoints: ("keypoints", keypoints.tensor),
    PolygonMasks: lambda masks: ("polygons", [[torch.from_numpy(p) for p in polygons] for polygons in masks.polygons]),
}
_DECODERS = {
    "tensor": lambda tensor: tensor,
    "boxes": Boxes,
    "bitmasks": BitMasks,
    "keypoints": Keypoints,
    "polygons": _polygons,
}
