"""Checkpoints: everything that an interrupted run needs to continue as if it had not been interrupted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import nn
from yacs.config import CfgNode as CN

from ..activations import activation_class
from ..config_files import keys
from ..untrusted.torch_file import load_torch_file
from ..utils.errors import InputError
from ..utils.io import open_regular, replacing
from ..utils.run_files import LAST_CHECKPOINT
from ..utils.storage import clear_errors
from ..utils.text import described
from .data.image_set import ImageSet

CURRENT = "checkpoint.pth"  # of a run that has not ended
_LONGEST_NAME = 4096  # bytes
_TO_START_AGAIN = "train without --resume to start again"
# Keys that may differ when a run is resumed: they don't change its result. MODEL.WEIGHTS is compared as a path.
_FREE_KEYS = (
    "OUTPUT_DIR", "MODEL.WEIGHTS", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS", "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.LOG_PERIOD", "TEST.IMS_PER_BATCH",
)  # fmt: skip
# As _FREE_KEYS, options of a dataset: where its files are. What is in them is compared by described_data.
_FREE_DATA_OPTIONS = ("ROOT", "DOWNLOAD", "CACHE")
# Nodes with a node of options per method, of which the one that NAME names has an effect.
_CHOICES = ("DATASET", "MODEL.NETWORK", "MODEL.ACTIVATION", "MODEL.CALIBRATION")
_OF_ANY_DATASET = ("LONG_TAIL",)
# Keys on which the class prior and the frequency groups of an evaluation depend.
_PRIOR_KEYS = ("DATASET.NAME", "DATASET.LONG_TAIL.IMBALANCE", "DATASET.LONG_TAIL.MAX_COUNT")


def save_checkpoint(folder: str | os.PathLike, name: str, content: dict) -> None:
    """
    Write a checkpoint atomically, then name it in ``last_checkpoint``.

    Args:
        folder: ``OUTPUT_DIR``.
        name: file name.
        content: of tensors and plain values only.

    Raises:
        StorageError: if the folder can't be written to.
    """
    with clear_errors(folder):
        with replacing(Path(folder, name), "wb", make_folder=False) as file:
            torch.save(content, file)
        with replacing(Path(folder, LAST_CHECKPOINT), make_folder=False) as file:
            file.write(name)


def newest_checkpoint(folder: str | os.PathLike) -> Path | None:
    """
    The checkpoint that ``last_checkpoint`` names; None if the folder has no such file.

    Raises:
        InputError: if ``last_checkpoint`` can't be read, or the checkpoint doesn't exist. Starting again would delete
            the results of the folder.
    """
    last = Path(folder, LAST_CHECKPOINT)
    try:
        with open_regular(last) as file:
            name = file.read(_LONGEST_NAME).decode("utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{os.fspath(last)!r} can't be read ({error}); {_TO_START_AGAIN}.") from error
    path = Path(folder, name)
    if not name or not path.is_file():
        raise InputError(
            f"{os.fspath(last)!r} names the checkpoint {name!r}, which doesn't exist; restore it, or {_TO_START_AGAIN}."
        )
    return path


def read_checkpoint(path: str | os.PathLike) -> dict:
    """
    Read a checkpoint of image classification onto the CPU, without running code from the file.

    Raises:
        InputError: if it is missing, damaged or something else.
    """
    path = os.path.expanduser(os.fspath(path))
    try:
        content = load_torch_file(path)
    except FileNotFoundError as error:
        raise InputError(f"Checkpoint {path!r} doesn't exist; correct the path.") from error
    except InputError:
        raise
    except Exception as error:  # torch and pickle raise exceptions of many types
        raise InputError(
            f"{path!r} is not a readable checkpoint ({described(error)}); use model_final.pth of a run."
        ) from error
    if not _is_checkpoint(content):
        raise InputError(f"{path!r} is not a checkpoint of image classification; use model_final.pth of a run.")
    return content


def _is_checkpoint(content) -> bool:
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        return False
    try:
        json.dumps([content["config"], content.get("data")])  # plain values, which can be compared
    except (TypeError, ValueError, RecursionError):
        return False
    state = content.get("model")
    return isinstance(state, dict) and all(isinstance(n, str) and isinstance(v, torch.Tensor) for n, v in state.items())


def load_model(model: nn.Module, content: dict, path: str | os.PathLike, prefixes: tuple[str, ...] = ("",)) -> None:
    """
    Load parts of a model. The state of the activation is not loaded.

    Args:
        model: changed in place.
        content: from :func:`read_checkpoint`.
        path: for messages.
        prefixes: beginnings of the names to load.

    Raises:
        InputError: if a name is missing or superfluous, a shape differs, or a weight is not finite.
    """
    wanted = {n: v for n, v in model.state_dict().items() if n.startswith(prefixes) and not n.startswith("activation.")}
    found = {n: v for n, v in content["model"].items() if n.startswith(prefixes) and not n.startswith("activation.")}
    if odd := sorted({*wanted} ^ {*found}):
        raise InputError(
            f"Checkpoint {os.fspath(path)!r} is of another model: {odd[0]!r} is in only one of the two; use the "
            "MODEL.NETWORK and MODEL.ACTIVATION of its config.yaml."
        )
    for name, value in wanted.items():
        if value.shape != found[name].shape:
            raise InputError(
                f"Checkpoint {os.fspath(path)!r} is of another model: {name} has shape {tuple(found[name].shape)}, "
                f"here {tuple(value.shape)}; use the same MODEL.NETWORK and number of classes."
            )
        if not found[name].isfinite().all():
            raise InputError(
                f"Checkpoint {os.fspath(path)!r} has values in {name} that are not finite: it is damaged, or its "
                "training diverged. Use another checkpoint, or train again with a lower SOLVER.BASE_LR."
            )
    model.load_state_dict(found, strict=False)


def described_data(images: ImageSet) -> dict:
    """The class names and training images per class, which a checkpoint is only valid for."""
    return {"class_names": list(images.class_names), "counts": images.counts().tolist()}


def check_same_data(content: dict, images: ImageSet, path: str | os.PathLike) -> None:
    """
    Check that a checkpoint was trained on classes and counts of a training set; one of an older version has no record.

    Args:
        content: from :func:`read_checkpoint`.
        images: the current training set.
        path: of the checkpoint, for the message.

    Raises:
        InputError: if a class differs in its name or number of training images.
    """
    saved, current = content.get("data"), described_data(images)
    if not isinstance(saved, dict) or saved == current:
        return
    for key, text in (("class_names", "classes"), ("counts", "training images per class")):
        before, now = saved.get(key), current[key]
        before = before if isinstance(before, list) else []
        if before != now:
            at = next((i for i, (a, b) in enumerate(zip(before, now)) if a != b), min(len(before), len(now)))
            raise InputError(
                f"Checkpoint {os.fspath(path)!r} was trained on other data: {text} differ, first that of class {at}: "
                f"{_item(before, at)} there, {_item(now, at)} here ({len(before)} and {len(now)} classes). Restore the "
                "data and the options of DATASET that it was trained with."
            )


def _item(values: list, at: int) -> str:
    return repr(values[at]) if at < len(values) else "none"


def plain_values(cfg: CN) -> dict:
    """A config as {key: plain value}, with keys such as "SOLVER.BASE_LR", to be saved in a checkpoint."""
    return keys.flat(json.loads(json.dumps(cfg)))


def check_same_run(saved: dict, cfg: CN, path: str | os.PathLike) -> None:
    """
    Args:
        saved: :func:`plain_values` of the config that a checkpoint was written with.
        cfg: the current config.
        path: of the checkpoint, for the message.

    Raises:
        InputError: if a key differs that changes the result.
    """
    current = plain_values(cfg)
    before, now = _with_effect(saved), _with_effect(current)
    if not _same_weights(saved, current):
        before["MODEL.WEIGHTS"], now["MODEL.WEIGHTS"] = saved.get("MODEL.WEIGHTS"), current["MODEL.WEIGHTS"]
    differing = [key for key in {*before, *now} if before.get(key) != now.get(key)]
    differing.sort(key=lambda key: (not key.endswith(".NAME"), key))  # the method before its options
    if differing:
        key = differing[0]
        raise InputError(
            f"--resume: {key} is {now.get(key)!r}, but {os.fspath(path)!r} was trained with {before.get(key)!r} "
            f"({len(differing)} keys differ). Restore the config, choose another OUTPUT_DIR, or train without --resume."
        )


def check_fits_evaluation(saved: dict, cfg: CN, path: str | os.PathLike) -> None:
    """
    Check that scores, class prior and frequency groups of a config are those of a checkpoint.

    Args:
        saved, cfg, path: as for :func:`check_same_run`.

    Raises:
        InputError: if the family of the activation or the training set differs.
    """
    current = plain_values(cfg)
    for key in _PRIOR_KEYS:
        if key in saved and saved[key] != current[key]:
            raise InputError(
                f"{key} is {current[key]!r}, but {os.fspath(path)!r} was trained with {saved[key]!r}: the class prior "
                "and the frequency groups would be wrong. Set it to that value."
            )
    name, now = str(saved.get("MODEL.ACTIVATION.NAME", "")), cfg.MODEL.ACTIVATION.NAME
    if name and name != now and activation_class(name).family != activation_class(now).family:
        raise InputError(
            f"MODEL.ACTIVATION.NAME is {now!r}, but {os.fspath(path)!r} was trained with {name!r}, whose scores are of "
            "another family; set MODEL.ACTIVATION.NAME to it."
        )


def _with_effect(flat: dict) -> dict:
    """The keys that change the result of a run."""
    return {key: value for key, value in flat.items() if key not in _FREE_KEYS and _is_chosen(key, flat)}


def _is_chosen(key: str, flat: dict) -> bool:
    """Whether a key is not an option of a method, or one of the chosen method that has an effect."""
    for node in _CHOICES:
        if key.startswith(f"{node}."):
            method, _, option = key.removeprefix(f"{node}.").partition(".")
            if not option or (node == "DATASET" and method in _OF_ANY_DATASET):
                return True
            free = node == "DATASET" and option in _FREE_DATA_OPTIONS
            return not free and method == str(flat.get(f"{node}.NAME")).upper()
    return True


def _same_weights(one: dict, other: dict) -> bool:
    """Whether two configs start from the same file, also if both the run and its first stage were moved."""
    paths = [os.path.expanduser(flat.get("MODEL.WEIGHTS") or "") for flat in (one, other)]
    if not all(paths):
        return paths[0] == paths[1]
    if os.path.realpath(paths[0]) == os.path.realpath(paths[1]):
        return True
    folders = [flat.get("OUTPUT_DIR") for flat in (one, other)]
    return all(folders) and len({os.path.relpath(p, f) for p, f in zip(paths, folders)}) == 1
