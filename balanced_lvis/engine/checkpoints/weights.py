"""Search and strict loading of the weights that MODEL.WEIGHTS names."""

from __future__ import annotations

import logging
import os

from detectron2.utils.file_io import Detectron2Handler, PathManager

from ...activations import state_keys
from ...modeling.decoupled import CLASSIFIER
from ...utils.errors import InputError
from ...utils.text import one_line
from . import remote_files
from .checkpoint_file import check_kind
from .checkpointer import Checkpointer
from .identity import Identity

logger = logging.getLogger(__name__)
remote_files.register()

# Message for each use of a checkpoint if MODEL.WEIGHTS is empty.
_NEEDS_WEIGHTS = {
    "evaluation": "--eval-only needs a checkpoint: add MODEL.WEIGHTS path/to/model_final.pth",
    "second stage": "MODEL.META_ARCHITECTURE DecoupledRCNN trains the classifier of a trained model: add MODEL.WEIGHTS "
    "path/to/model_final.pth of the first stage, which configs/*_rfs.yaml trains",
}


def check_weights(path: str, purpose: str = "training") -> None:
    """
    Find or download the weights that ``MODEL.WEIGHTS`` names.

    Args:
        path: a file, a URL, or a name of Detectron2's model zoo (``detectron2://...``); empty for none.
        purpose: "training", or "evaluation" or "second stage", which need weights.

    Raises:
        InputError: if they can't be found or downloaded.
    """
    if not path:
        if purpose in _NEEDS_WEIGHTS:
            raise InputError(_NEEDS_WEIGHTS[purpose])
        return
    local = path.split("?", 1)[0]
    try:
        local = PathManager.get_local_path(local)
        found = os.path.exists(local)
        reason = f"{local} was not found"
    except InputError as error:
        found, reason = False, str(error).rstrip(".")
    except Exception as error:  # download handlers raise URLError, OSError, HTTPError, timeouts and others
        found, reason = False, f"{type(error).__name__}: {error}"
    if found:
        check_kind(local)
    else:
        raise InputError(f"MODEL.WEIGHTS {path!r} can't be read ({reason}).{_remedy(path, purpose)}")


def _remedy(path: str, purpose: str) -> str:
    if "://" not in path and purpose == "second stage":
        return " Train the first stage first, or set MODEL.WEIGHTS to its model_final.pth."
    if "://" not in path and purpose == "evaluation":
        return " Check the path."
    if "://" not in path:
        return " Check the path, or set MODEL.WEIGHTS '' to start from random weights."
    name = path.rsplit("/", 1)[-1]
    return (
        f" Download {resolve_url(path)} on a machine with network access, copy the file to this machine, and set"
        f" MODEL.WEIGHTS /path/to/{name}."
        + (" To start from random weights instead: MODEL.WEIGHTS ''." if purpose == "training" else "")
    )


def resolve_url(path: str) -> str:
    """URL of a ``detectron2://`` name; other paths are returned as they are."""
    handler = Detectron2Handler
    if path.startswith(handler.PREFIX):
        return handler.S3_DETECTRON2_PREFIX + path[len(handler.PREFIX) :]
    return path


_UNKNOWN_FAMILY = (
    "%s doesn't state its classes and activation. It is assumed to have the classes of the dataset, in this order, "
    "and a classifier trained with a %s; otherwise all scores are wrong. The LVIS and COCO models of Detectron2 are "
    "trained with a softmax unless USE_SIGMOID_CE was set, those of BALMS and EQL with sigmoids. For the other kind: "
    "MODEL.ROI_BOX_HEAD.ACTIVATION.NAME %s. `balanced-lvis convert` adds classes and activation to a file."
)

_NO_BACKGROUND = (
    "Its classifier has {} outputs, one less than the model: it may have no background output, as those of BALMS and "
    "EQL. `balanced-lvis convert INPUT OUTPUT` adds that output, which sigmoids ignore.\n"
)


class _StrictCheckpointer(Checkpointer):
    """
    Checkpointer that records the differences between file and model.

    Args:
        fresh: names in the state dict that keep the values of the model. They may be missing in the file, but not have
            another shape, which would mean other classes.
        whole_classifier: whether the classifier of the file is used, so that all its tensors must fit.
    """

    def __init__(self, model, fresh=(), whole_classifier=True, trust=False):
        super().__init__(model, trust=trust)
        self.fresh = fresh
        self.whole_classifier = whole_classifier
        self.fresh_state: list[str] = []

    def _report(self, message):
        raise InputError(message)

    def _load_model(self, checkpoint):
        state = self.model.state_dict()
        fresh = {key: state[key].clone() for key in self.fresh}
        incompatible = super()._load_model(checkpoint)
        # Restored rather than removed from the file, whose names may differ before loading. Not by load_state_dict(),
        # which would reset statistics of frozen batch normalisation that are not in ``fresh``.
        for key, value in fresh.items():
            state[key].copy_(value)
        missing, unexpected = set(incompatible.missing_keys), incompatible.unexpected_keys
        shapes = {key for key, *_ in incompatible.incorrect_shapes}
        # An activation with state can follow one without: the state has its initial values then.
        self.fresh_state = sorted(missing.intersection(state_keys(self.model)) - shapes)
        problems = {key: "missing in the file" for key in missing - fresh.keys() - set(self.fresh_state)}
        self.hint = ""
        for key, in_file, in_model in incompatible.incorrect_shapes:  # these count as missing too
            if key.endswith("cls_score.bias") and in_file[0] == in_model[0] - 1:
                self.hint = _NO_BACKGROUND.format(*in_file)
            problems[key] = f"{tuple(in_file)} in the file, {tuple(in_model)} in the model"
        if self.whole_classifier:
            lost = {*(fresh.keys() - missing), *(key for key in unexpected if key.startswith(f"{CLASSIFIER}."))}
            problems.update({key: "in the file, not used by the model" for key in lost})
        self.problems = [f"  {one_line(key)}: {problem}" for key, problem in sorted(problems.items())]
        return incompatible


def load_for_evaluation(model, path: str, identity: Identity | None = None, trust: bool = False) -> Identity | None:
    """
    Load a checkpoint that must provide every parameter of the model.

    Args:
        identity: identity of the evaluated model. A checkpoint with another identity is rejected; one without, as of
            other programs, must be for a linear classifier and a plain mask predictor.
        trust: as for :func:`.checkpoint_file.read_checkpoint`.

    Returns:
        identity of the checkpoint; None if it has none, as those of other programs.

    Raises:
        InputError: if the file is broken or of another identity, or tensors are missing or have another shape.
    """
    found = _load(
        _StrictCheckpointer(model, trust=trust), path, "evaluating it would use random values for",
        "Use the config that the checkpoint was trained with (backbone, MODEL.ROI_HEADS.NUM_CLASSES, heads).",
    )  # fmt: skip
    if identity is None:
        return found
    if found is None:
        identity.check_heads(_unstated(), f"MODEL.WEIGHTS {path!r}")
        logger.warning(_UNKNOWN_FAMILY, path, identity.family, {"sigmoid": "softmax"}.get(identity.family, "sigmoid"))
        return None
    identity.check_class_names(found, f"MODEL.WEIGHTS {path!r}")
    if found.family != identity.family:
        raise InputError(
            f"MODEL.WEIGHTS {path!r} was trained with a {found.family} activation, but "
            f"MODEL.ROI_BOX_HEAD.ACTIVATION.NAME is of the {identity.family} family; the scores would "
            "be meaningless. Use the config that the checkpoint was trained with."
        )
    identity.check_heads(found, f"MODEL.WEIGHTS {path!r}")
    return found


def load_first_stage(model, path: str, identity: Identity, trust: bool = False) -> None:
    """
    Load the checkpoint of the first stage into a :class:`balanced_lvis.modeling.DecoupledRCNN`.

    The checkpoint must provide everything but ``model.fresh_keys``. If the classifier is kept and was trained with the
    other family of activations, sigmoid or softmax, a warning is logged.

    Args:
        model: loaded in place.
        path: ``MODEL.WEIGHTS``.
        identity: of the second stage.
        trust: as for :func:`balanced_lvis.engine.checkpoints.checkpoint_file.read_checkpoint`.

    Raises:
        InputError: if the file is broken, has other classes or kinds of heads, or tensors are missing or have another
            shape.
    """
    whole_classifier = not model.stage.from_scratch
    checkpointer = _StrictCheckpointer(model, model.fresh_keys, whole_classifier, trust)
    found = _load(
        checkpointer, path, "the second stage would freeze random values of",
        "Use the config of the first stage; only META_ARCHITECTURE, DECOUPLED and ACTIVATION may differ.",
    )  # fmt: skip
    identity.check_heads(found or _unstated(), f"MODEL.WEIGHTS {path!r}", classifier=whole_classifier)
    if found is None:
        logger.info("%s doesn't state its classes and activation; they are assumed to match.", path)
        return
    identity.check_class_names(found, f"MODEL.WEIGHTS {path!r}")
    if found.family != identity.family and not model.stage.from_scratch:
        logger.warning(
            "%s has a classifier that was trained with a %s activation and is fine-tuned with a %s one: its biases "
            "don't fit the new activation. Expect high losses at first; MODEL.DECOUPLED.CLASSIFIER retrain uses a new "
            "classifier.",
            path, found.family, identity.family,
        )  # fmt: skip


def _unstated() -> Identity:
    """Of a checkpoint that has none: its heads are Detectron2's."""
    return Identity([], "", "")


def _load(checkpointer: _StrictCheckpointer, path: str, consequence: str, remedy: str) -> Identity | None:
    """Load strictly; return the :class:`Identity` of the checkpoint, None if it has none."""
    try:
        rest = checkpointer.load(path)
    except InputError:
        raise
    except Exception as error:  # torch, pickle and zipfile raise exceptions of many types
        raise InputError(
            f"MODEL.WEIGHTS {path!r} is not a readable checkpoint ({type(error).__name__}: {error}); it may be "
            "truncated or written by another program."
        ) from error
    if checkpointer.fresh_state:
        logger.info(
            "%s has no %s; this state of the activation starts from its initial values.",
            path, ", ".join(checkpointer.fresh_state),
        )  # fmt: skip
    problems = checkpointer.problems
    if problems:
        shown = "\n".join(problems[:20]) + (f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise InputError(
            f"MODEL.WEIGHTS {path!r} doesn't fit the model; {consequence}\n{shown}\n{checkpointer.hint}{remedy}"
        )
    return Identity.read(rest, f"MODEL.WEIGHTS {path!r}")
