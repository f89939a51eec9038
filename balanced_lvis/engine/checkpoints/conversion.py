"""
Checkpoints of other programs made ours, and ours made theirs.

K is the number of classes, D that of the box head's channels. A classifier has either K+1 outputs, the last one for
background, as Detectron2's and ours, or K, as the published ones of EQL (Tan et al., CVPR 2020) and BALMS (Ren et al.,
NeurIPS 2020), whose sigmoids need none.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ...utils.errors import InputError
from ...utils.io import replacing
from ...utils.storage import clear_output_errors
from .checkpoint_file import read_checkpoint
from .identity import Identity

FAMILIES = ("sigmoid", "softmax")
LAYOUTS = ("balanced_lvis", "no_background")
_KEPT = ("model", Identity.KEY, "matching_heuristics", "__author__")
_END_TO_END = "an end-to-end training"
_CLASSIFIER = re.compile(r"^(.*roi_heads\.box_predictor(?:\.\d+)?)\.cls_score\.(weight|bias|scale)$")
_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel's and torch.compile's


@dataclass
class Conversion:
    """
    What was done.

    Attributes:
        num_classes: K.
        had_background: whether the classifier had K+1 outputs before.
        has_background: whether it has them now.
        family: "sigmoid" or "softmax".
        class_names: K names; empty where nobody told.
        num_tensors: written.
        dropped: the file's other entries, such as the optimizer's state, which were left out.
        steps: what else was done, in words.
    """

    num_classes: int
    had_background: bool
    has_background: bool
    family: str
    class_names: list[str]
    num_tensors: int = 0
    dropped: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)


def convert_checkpoint(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    layout: str = "balanced_lvis",
    family: str | None = None,
    class_names: list[str] | None = None,
    num_classes: int | None = None,
    trust: bool = False,
) -> Conversion:
    """
    Write the weights of a checkpoint in another layout, without what only its training needs.

    Args:
        source: a checkpoint of ours, of Detectron2 (``.pth``, or ``.pkl`` of its model zoo), EQL or BALMS.
        output: ``.pth``, or ``.pkl`` for the model zoo's format, which Detectron2 reads as well.
        layout: "balanced_lvis" for K+1 outputs, as Detectron2 has them, with class names and family; or
            "no_background" for K outputs, which only sigmoids can do with.
        family: "sigmoid" or "softmax", what the classifier was trained for, where the file doesn't tell; K outputs are
            sigmoids.
        class_names: K names in the order of the outputs, where the file doesn't tell.
        num_classes: K, needed only where neither names nor class-specific boxes or masks tell it.
        trust: as for :func:`balanced_lvis.engine.checkpoints.checkpoint_file.read_checkpoint`.

    Returns:
        what was done.

    Raises:
        InputError: if the file can't be read, isn't of a detector, or doesn't tell what has to be known; nothing is
            written then.
    """
    source, output = os.fspath(source), os.fspath(output)
    _check_arguments(source, output, layout, family, num_classes)
    content = read_checkpoint(source, trust)
    told = Identity.read(content, source)
    state, steps = _unwrapped(content["model"])
    outputs = _num_outputs(source, content, state)
    names = _class_names(source, told, class_names)
    known = num_classes if num_classes is not None else len(names) or _classes_of_other_heads(state)
    # An activation can have more outputs than the classes and the background; these are kept.
    has_more = told is not None and 0 < known < outputs - 1
    background = has_more or _has_background(source, outputs, known)
    family = _family(source, told, family, background)
    if layout == "no_background" and (has_more or family != "sigmoid"):
        raise InputError(
            f"{source!r} has a {family} classifier with {outputs} outputs for {known} classes, whose last outputs "
            "can't be left out; use layout balanced_lvis."
        )
    done = Conversion(known, background, layout != "no_background", family, names, steps=steps)
    if done.has_background and not background:
        _change_classifier(state, _with_background)
        done.steps.append("gave the classifier a background output, which sigmoids don't use")
    elif background and not done.has_background:
        _change_classifier(state, lambda value, _: value[:-1].clone())
        done.steps.append("took the classifier's unused background output away")
    done.dropped = [str(key) for key in content if key not in _KEPT]
    done.num_tensors = len(state)
    stage = told.stage if told else _END_TO_END
    _write(output, {"model": state, Identity.KEY: Identity(names, family, stage).state_dict()})
    return done


def _check_arguments(source: str, output: str, layout: str, family: str | None, num_classes: int | None) -> None:
    if layout not in LAYOUTS:
        raise InputError(f"layout is {layout!r}; valid: {', '.join(LAYOUTS)}.")
    if family is not None and family not in FAMILIES:
        raise InputError(f"family is {family!r}; valid: {', '.join(FAMILIES)}.")
    if not output.endswith((".pth", ".pkl")):
        raise InputError(f"The output {output!r} has to be named .pth, or .pkl for the model zoo's format.")
    if os.path.exists(output) and os.path.exists(source) and os.path.samefile(source, output):
        raise InputError(f"The output {output!r} is the input itself; give another name.")
    if num_classes is not None and num_classes < 1:
        raise InputError(f"num_classes is {num_classes}; a classifier has at least 1.")
    if os.path.isdir(output):
        raise InputError(f"The output {output!r} is a folder; give a file name in it.")


def _unwrapped(state: dict) -> tuple[dict, list[str]]:
    """The same tensors, without the prefixes of what a model was wrapped in when it was saved."""
    steps = []
    for wrapper in _WRAPPERS:
        if any(name.startswith(wrapper) or f".{wrapper}" in name for name in state):
            state = {re.sub(rf"(^|\.){re.escape(wrapper)}", r"\1", name): value for name, value in state.items()}
            steps.append(f"took {wrapper!r} out of the names")
    return dict(state), steps


def _num_outputs(source: str, content: dict, state: dict) -> int:
    counts = {name: value.shape[0] for name, value in state.items() if _CLASSIFIER.match(name) and value.dim()}
    if not counts:
        kind = "of Detectron" if content.get("__author__") == "Caffe2" else "of another program"
        raise InputError(
            f"{source!r} has no tensor named roi_heads.box_predictor.cls_score.weight: it is a backbone's checkpoint, "
            f"or {kind}. Trainings start from backbones as they are, by MODEL.WEIGHTS."
        )
    if len(set(counts.values())) > 1:
        raise InputError(f"{source!r} has classifiers of different sizes: {counts}.")
    return next(iter(counts.values()))


def _class_names(source: str, told: Identity | None, given: list[str] | None) -> list[str]:
    theirs = told.class_names if told else []
    if told and given and theirs:
        Identity(given, "", "").check_class_names(told, f"{source!r}")
    return list(given or theirs)


def _classes_of_other_heads(state: dict) -> int:
    """K by the heads that have outputs per class; 0 where none has."""
    for name, value in state.items():
        if re.search(r"roi_heads\.mask_head\.predictor\.bias$", name) and value.shape[0] > 1:
            return value.shape[0]
        if re.search(r"roi_heads\.box_predictor(\.\d+)?\.bbox_pred\.bias$", name) and value.shape[0] > 4:
            return value.shape[0] // 4
    return 0


def _has_background(source: str, outputs: int, num_classes: int) -> bool:
    if not num_classes:
        raise InputError(
            f"{source!r} has a classifier of {outputs} outputs, and nothing in it tells whether the last one is the "
            "background's: give the classes (--classes NAME_OR_JSON) or their number (--num-classes)."
        )
    if outputs not in (num_classes, num_classes + 1):
        raise InputError(
            f"{source!r} has a classifier of {outputs} outputs, but there are {num_classes} classes, which take "
            f"{num_classes + 1}, or {num_classes} without background; give the classes that it was trained for."
        )
    return outputs == num_classes + 1


def _family(source: str, told: Identity | None, given: str | None, background: bool) -> str:
    known = told.family if told else None if background else "sigmoid"
    family = known or given
    if family is None:
        raise InputError(
            f"{source!r} doesn't tell whether its classifier was trained as a softmax or as sigmoids, and their scores "
            "differ: add --activation. Detectron2's models are softmax unless their config has USE_SIGMOID_CE."
        )
    if None not in (known, given) and known != given:
        reason = "says of itself that it is" if told else "has no background output, and so is"
        raise InputError(f"The activation is to be {given}, but {source!r} {reason} {known}.")
    return family


def _change_classifier(state: dict, change: Callable) -> None:
    for name in list(state):
        if found := _CLASSIFIER.match(name):
            state[name] = change(state[name], found[2])


def _with_background(value: torch.Tensor, kind: str) -> torch.Tensor:
    extra = value.new_zeros((1, *value.shape[1:]))
    return torch.cat([value, extra + 1 if kind == "scale" else extra])


def _write(output: str, content: dict) -> None:
    with clear_output_errors(output), replacing(output, "wb") as file:
        if output.endswith(".pkl"):
            arrays = {name: value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
                      for name, value in content["model"].items()}  # fmt: skip
            pickle.dump({**content, "model": arrays, "__author__": "balanced_lvis"}, file, protocol=4)
        else:
            torch.save(content, file)
