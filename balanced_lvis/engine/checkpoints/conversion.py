"""
Conversion of checkpoints from and to the layouts of other programs.

K is the number of classes. Classifiers of Detectron2 and balanced_lvis have K+1 outputs, the last for the background.
The published sigmoid classifiers of EQL (Tan et al., CVPR 2020) and BALMS (Ren et al., NeurIPS 2020) have K. Files of
torchvision, timm and mmdetection are recognized by their names of parameters.
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
from ...utils.text import one_line
from . import settings as settings_entry
from .checkpoint_file import AVERAGED, READ_AVERAGED, read_checkpoint
from .efficientnet_lite import convert_efficientnet_lite, is_efficientnet_lite
from .identity import Identity
from .mmdetection import convert_mmdetection, is_mmdetection, model_config
from .other_layouts import Renamed, check_distinct, summary
from .resnets import convert_resnet, is_resnet

FAMILIES = ("sigmoid", "softmax")
LAYOUTS = ("balanced_lvis", "no_background")
_KEPT = ("model", Identity.KEY, settings_entry.KEY, "matching_heuristics", "__author__", READ_AVERAGED)
_END_TO_END = "an end-to-end training"
_CLASSIFIER = re.compile(r"^(.*roi_heads\.box_predictor(?:\.\d+)?)\.cls_score\.(weight|bias|scale)$")
# Whether tensors have the names of a program's backbone, and their conversion.
_BACKBONES = ((is_resnet, convert_resnet), (is_efficientnet_lite, convert_efficientnet_lite))
_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel's and torch.compile's
_OWNERS = ("model.", "backbone.")  # attributes of modules of training programs, such as Lightning's
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PARAMETER = re.compile(r"(.*\.)?(weight|bias|running_mean|running_var|scale)")


@dataclass
class Conversion:
    """
    Summary of a conversion.

    Attributes:
        num_classes: K; 0 for a backbone.
        had_background: whether the classifier had K+1 outputs before the conversion.
        has_background: whether it has them afterwards.
        family: "sigmoid", "softmax" or that of another activation; empty for a backbone.
        class_names: K names; empty if unknown.
        settings: config values that the weights rely on; empty if they are those of Detectron2's own weights.
        num_tensors: number of tensors written.
        dropped: entries of the file that were not written, such as the state of the optimizer.
        steps: descriptions of the other changes.
    """

    num_classes: int
    had_background: bool
    has_background: bool
    family: str
    class_names: list[str]
    settings: dict = field(default_factory=dict)
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
    Write the weights of a checkpoint in another layout, without training state.

    Args:
        source: checkpoint of balanced_lvis, of Detectron2 (``.pth``, or ``.pkl`` of its model zoo), EQL or BALMS; Mask
            or Faster R-CNN of mmdetection; a ResNet of torchvision or timm; or EfficientNet-Lite0.
        output: path of a ``.pth`` file, or of a ``.pkl`` file in the format of Detectron2's model zoo.
        layout: "balanced_lvis" for K+1 outputs, as Detectron2 has them, with class names and family; or
            "no_background" for K outputs, for sigmoids only.
        family: "sigmoid" or "softmax", if the file doesn't state what the classifier was trained with. Classifiers of K
            outputs are sigmoids.
        class_names: K names in the order of the outputs, if the file doesn't state them.
        num_classes: K, needed only if neither class names nor class-specific boxes or masks give it.
        trust: as for :func:`balanced_lvis.engine.checkpoints.checkpoint_file.read_checkpoint`.

    Returns:
        summary of the conversion.

    Raises:
        InputError: if the file can't be read, is not a checkpoint of a supported model, lacks information that
            must be given, or has tensors that are missing, too many or of another shape. Nothing is written then.
    """
    source, output = os.fspath(source), os.fspath(output)
    _check_arguments(source, output, layout, family, num_classes)
    content = read_checkpoint(source, trust)
    state, steps = _tensors(source, content)
    if convert := next((convert for matches, convert in _BACKBONES if matches(state)), None):
        if family or class_names or num_classes or layout != "balanced_lvis":
            raise InputError(f"{source!r} is a backbone, which has no classes; give only the files.")
        return _write_backbone(output, content, convert(source, state), steps)
    if any(name.startswith("backbone.body.") for name in state):
        raise InputError(
            f"{source!r} is a detector of torchvision, whose first class is the background; these can't be converted."
        )
    identity = Identity.read(content, source)
    settings, dropped = settings_entry.read_settings(content, repr(source)), []
    if is_mmdetection(state):
        found = convert_mmdetection(source, state, content.get("meta"), num_classes or len(class_names or ()))
        state, settings, dropped, steps = found.state, found.settings, found.dropped, steps + found.steps
        identity = Identity.of_model(model_config(settings), found.class_names, _END_TO_END)
        if settings_entry.MASK_TEMPERATURE not in settings:
            identity.mask_predictor = ""  # unknown
    outputs = _num_outputs(source, state)
    names = _class_names(source, identity, class_names)
    known = num_classes if num_classes is not None else len(names) or _classes_of_other_heads(state)
    # An activation can have more outputs than the classes and the background; these are kept.
    has_more = identity is not None and 0 < known < outputs - 1 and len(names) in (0, known)
    background = has_more or _has_background(source, outputs, known)
    family = _family(source, identity, family, background)
    if layout == "no_background" and (has_more or family != "sigmoid"):
        raise InputError(
            f"{source!r} has a {family} classifier with {outputs} outputs for {known} classes, which "
            "layout 'no_background' can't represent; use layout 'balanced_lvis'."
        )
    done = Conversion(known, background, layout != "no_background", family, names, settings, steps=steps)
    if done.has_background and not background:
        _change_classifier(state, _with_background)
        done.steps.append("added a background output to the classifier, which sigmoids ignore")
    elif background and not done.has_background:
        _change_classifier(state, lambda value, _: value[:-1].clone())
        done.steps.append("removed the unused background output of the classifier")
    done.dropped = [*summary(dropped), *_not_kept(content)]
    done.num_tensors = len(state)
    stage = identity.stage if identity else _END_TO_END
    heads = (identity.classifier, identity.mask_predictor) if identity else ()
    entries = {Identity.KEY: Identity(names, family, stage, *heads).state_dict()}
    _write(output, {"model": state, **entries, **({settings_entry.KEY: settings} if settings else {})})
    return done


def _not_kept(content: dict) -> list[str]:
    """Entries of a file that are not written."""
    return [str(key) for key in content if key not in _KEPT]


def _write_backbone(output: str, content: dict, found: Renamed, steps: list[str]) -> Conversion:
    # Matching heuristics: names lack the prefix that depends on the model. Detectron2's own converter writes them, too.
    _write(output, {"model": found.state, settings_entry.KEY: found.settings, "matching_heuristics": True})
    dropped = [*summary(found.dropped), *_not_kept(content)]
    return Conversion(0, False, False, "", [], found.settings, len(found.state), dropped, steps + found.steps)


def _check_arguments(source: str, output: str, layout: str, family: str | None, num_classes: int | None) -> None:
    if layout not in LAYOUTS:
        raise InputError(f"layout is {layout!r}; valid: {', '.join(LAYOUTS)}.")
    if family is not None and family not in FAMILIES:
        raise InputError(f"family is {family!r}; valid: {', '.join(FAMILIES)}.")
    if not output.endswith((".pth", ".pkl")):
        raise InputError(f"The output {output!r} must end in .pth, or in .pkl for the format of the model zoo.")
    if os.path.exists(output) and os.path.exists(source) and os.path.samefile(source, output):
        raise InputError(f"The output {output!r} is the input; choose another name.")
    if num_classes is not None and num_classes < 1:
        raise InputError(f"num_classes is {num_classes}; it must be at least 1.")
    if os.path.isdir(output):
        raise InputError(f"The output {output!r} is a folder; give the path of a file.")


def _tensors(source: str, content: dict) -> tuple[dict, list[str]]:
    """The weights without the prefixes that training adds to their names, and descriptions of what was done."""
    steps = []
    if READ_AVERAGED in content:
        steps.append(f"weights of {content[READ_AVERAGED]!r}, a moving average, as the file has no others")
    elif averaged := [key for key in AVERAGED if key in content]:
        steps.append(f"the model's own weights, not those of {averaged[0]!r}")
    state = dict(content["model"])
    _check_values(source, state)
    for wrapper in _WRAPPERS:
        if any(name.startswith(wrapper) or f".{wrapper}" in name for name in state):
            state = {re.sub(rf"(^|\.){re.escape(wrapper)}", r"\1", name): value for name, value in state.items()}
            steps.append(f"removed {wrapper!r} from the names")
    for owner in _OWNERS:
        if all(name.startswith(owner) for name in state):
            inner = {name[len(owner) :]: value for name, value in state.items()}
            if any(matches(inner) for matches, _ in _BACKBONES):
                return inner, [*steps, f"removed {owner!r} from the names"]
    return state, steps


def _check_values(source: str, state: dict) -> None:
    """
    Raises:
        InputError: for parameters that are quantized, complex or not finite.
    """
    for name, value in state.items():
        if value.is_complex() or (_PARAMETER.fullmatch(name) and value.dtype not in _DTYPES):
            raise InputError(
                f"{source!r}: the tensor {one_line(name)} has the type {value.dtype}; only floating-point weights can "
                "be converted. Save the model before it is quantized."
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(
                f"{source!r}: the tensor {one_line(name)} has values that are NaN or infinite; the training diverged, "
                "or the file is damaged. Use an earlier checkpoint."
            )


def _num_outputs(source: str, state: dict) -> int:
    counts = {name: value.shape[0] for name, value in state.items() if _CLASSIFIER.match(name) and value.dim()}
    if not counts:
        first = ", ".join(map(one_line, list(state)[:3]))
        raise InputError(
            f"{source!r} can't be converted: its {len(state)} tensors ({first}, ...) are not those of a supported "
            f"model. {_SUPPORTED}"
        )
    if len(set(counts.values())) > 1:
        raise InputError(f"{source!r} has classifiers of different sizes: {counts}.")
    return next(iter(counts.values()))


_SUPPORTED = (
    "Supported are detectors of Detectron2, EQL, BALMS and balanced_lvis, which have "
    "roi_heads.box_predictor.cls_score.weight; Mask and Faster R-CNN of mmdetection; ResNets and ResNeXts of "
    "torchvision and timm, which have layer1.0.conv1.weight; and EfficientNet-Lite0. Backbones of Detectron2 need no "
    "conversion: set MODEL.WEIGHTS."
)


def _class_names(source: str, identity: Identity | None, given: list[str] | None) -> list[str]:
    theirs = identity.class_names if identity else []
    if identity and given and theirs:
        Identity(given, "", "").check_class_names(identity, f"{source!r}")
    if given:
        check_distinct(source, given)
    return list(given or theirs)


def _classes_of_other_heads(state: dict) -> int:
    """K, from heads with outputs per class; 0 if there are none."""
    for name, value in state.items():
        if re.search(r"roi_heads\.mask_head\.predictor\.bias$", name) and value.shape[0] > 1:
            return value.shape[0]
        if re.search(r"roi_heads\.box_predictor(\.\d+)?\.bbox_pred\.bias$", name) and value.shape[0] > 4:
            return value.shape[0] // 4
    return 0


def _has_background(source: str, outputs: int, num_classes: int) -> bool:
    if not num_classes:
        raise InputError(
            f"{source!r} has a classifier of {outputs} outputs, the last of which may or may not be the background; "
            "give the classes (--classes NAME_OR_JSON) or their number (--num-classes)."
        )
    if outputs not in (num_classes, num_classes + 1):
        raise InputError(
            f"{source!r} has a classifier of {outputs} outputs, but {num_classes} classes need "
            f"{num_classes + 1}, or {num_classes} without background; give the classes that it was trained with."
        )
    return outputs == num_classes + 1


def _family(source: str, identity: Identity | None, given: str | None, background: bool) -> str:
    known = identity.family if identity else None if background else "sigmoid"
    family = known or given
    if family is None:
        raise InputError(
            f"{source!r} doesn't state whether its classifier was trained with a softmax or with sigmoids; add "
            "--activation. Models of Detectron2 use a softmax unless their config sets USE_SIGMOID_CE."
        )
    if None not in (known, given) and known != given:
        reason = "was trained with" if identity else "has no background output, and therefore uses"
        raise InputError(f"The activation is {given!r}, but {source!r} {reason} {known}; remove --activation.")
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
