"""Weights: found before anything is built, and whole when they are evaluated."""

from __future__ import annotations

import os

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import Detectron2Handler, PathManager

from ..errors import InputError


def check_weights(path: str, purpose: str = "training") -> None:
    """
    Fetch or find the weights that ``MODEL.WEIGHTS`` names.

    Args:
        path: a file, a URL, or a name of Detectron2's model zoo (``detectron2://...``). Empty means none.
        purpose: "training" or "evaluation", which needs weights.

    Raises:
        InputError: if they can't be had, saying where to put the file.
    """
    if not path:
        if purpose == "evaluation":
            raise InputError("--eval-only needs a checkpoint: add MODEL.WEIGHTS path/to/model_final.pth")
        return
    local = path.split("?", 1)[0]
    try:
        local = PathManager.get_local_path(local)
        found = os.path.isfile(local)
        reason = f"{local} doesn't exist"
    except Exception as error:  # whatever a download handler raises: URLError, OSError, HTTPError, timeouts
        found, reason = False, f"{type(error).__name__}: {error}"
    if not found:
        raise InputError(f"MODEL.WEIGHTS {path!r} can't be read ({reason}).{_remedy(path)}")


def _remedy(path: str) -> str:
    if "://" not in path:
        return " Check the path, or set MODEL.WEIGHTS '' to start from random weights."
    name = path.rsplit("/", 1)[-1]
    return (
        f" Download {resolve_url(path)} on a machine with a network, put the file anywhere, and point to it:"
        f" MODEL.WEIGHTS /path/to/{name}. To start from random weights instead: MODEL.WEIGHTS ''."
    )


def resolve_url(path: str) -> str:
    """The https address behind ``detectron2://`` names."""
    handler = Detectron2Handler
    if path.startswith(handler.PREFIX):
        return handler.S3_DETECTRON2_PREFIX + path[len(handler.PREFIX) :]
    return path


class _StrictCheckpointer(DetectionCheckpointer):
    """Remembers which tensors of the model the file did not provide."""

    def _load_model(self, checkpoint):
        incompatible = super()._load_model(checkpoint)
        problems = {key: "missing in the file" for key in incompatible.missing_keys}
        for key, in_file, in_model in incompatible.incorrect_shapes:  # these count as missing too
            problems[key] = f"{tuple(in_file)} in the file, {tuple(in_model)} in the model"
        self.problems = [f"  {key}: {problem}" for key, problem in sorted(problems.items())]
        return incompatible


def load_for_evaluation(model, path: str) -> None:
    """
    Load a checkpoint that has to provide every parameter of the model.

    Raises:
        InputError: if the file is broken; or listing the tensors that are missing or have another shape, with both.
    """
    checkpointer = _StrictCheckpointer(model)
    try:
        checkpointer.load(path)
    except Exception as error:  # torch, pickle and zipfile each have their own for a broken file
        raise InputError(
            f"MODEL.WEIGHTS {path!r} is not a readable checkpoint ({type(error).__name__}: {error}); it may be "
            "truncated or of another program."
        ) from error
    problems = checkpointer.problems
    if problems:
        shown = "\n".join(problems[:20]) + (f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise InputError(
            f"MODEL.WEIGHTS {path!r} doesn't fit the model; evaluating it would use random values for\n{shown}\n"
            "Use the config that the checkpoint was trained with (backbone, MODEL.ROI_HEADS.NUM_CLASSES, heads)."
        )
