"""Checkpoints: everything that an interrupted run needs to continue as if it had not been interrupted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import nn
from yacs.config import CfgNode as CN

from ..utils.errors import InputError
from ..utils.io import open_regular, replacing
from ..utils.storage import clear_errors

LAST = "last_checkpoint"  # names the newest one, as in Detectron2
CURRENT = "checkpoint.pth"  # of a run that has not ended
FINAL = "model_final.pth"
# Keys that may differ when a run is resumed: they don't change its result.
_FREE_KEYS = ("OUTPUT_DIR", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS", "SOLVER.CHECKPOINT_PERIOD", "TEST.IMS_PER_BATCH")


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
        with replacing(Path(folder, LAST), make_folder=False) as file:
            file.write(name)


def newest_checkpoint(folder: str | os.PathLike) -> Path | None:
    """The checkpoint that ``last_checkpoint`` names; None if there is none."""
    try:
        path = Path(folder, Path(folder, LAST).read_text(encoding="utf-8").strip())
    except OSError:
        return None
    return path if path.is_file() else None


def read_checkpoint(path: str | os.PathLike) -> dict:
    """
    Read a checkpoint of image classification onto the CPU, without running code from the file.

    Raises:
        InputError: if it is missing, damaged or something else.
    """
    path = os.path.expanduser(os.fspath(path))
    try:
        with open_regular(path) as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"Checkpoint {path!r} doesn't exist; correct the path.") from error
    except InputError:
        raise
    except Exception as error:  # torch and pickle raise exceptions of many types
        reason = f"{type(error).__name__}: {error}".split("\n", 1)[0][:200]
        raise InputError(f"{path!r} is not a readable checkpoint ({reason}); use model_final.pth of a run.") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict) or "config" not in content:
        raise InputError(f"{path!r} is not a checkpoint of image classification; use model_final.pth of a run.")
    return content


def load_model(model: nn.Module, content: dict, path: str | os.PathLike, prefixes: tuple[str, ...] = ("",)) -> None:
    """
    Load parts of a model; the state of an activation that a checkpoint of another one lacks stays as it is.

    Args:
        model: changed in place.
        content: from :func:`read_checkpoint`.
        path: for messages.
        prefixes: beginnings of the names to load.

    Raises:
        InputError: if a name is missing or superfluous, or a shape differs.
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
    model.load_state_dict(found, strict=False)


def comparable(cfg: CN) -> dict:
    """A config as plain values, without the keys that may differ when a run is resumed."""
    flat = _flat(json.loads(json.dumps(cfg)))
    return {key: value for key, value in flat.items() if key not in _FREE_KEYS}


def check_same_run(saved: dict, cfg: CN, path: str | os.PathLike) -> None:
    """
    Args:
        saved: :func:`comparable` of the config that a checkpoint was written with.
        cfg: the current config.
        path: of the checkpoint, for the message.

    Raises:
        InputError: if a key differs that changes the result.
    """
    current = comparable(cfg)
    differing = [key for key in sorted({*saved, *current}) if saved.get(key) != current.get(key)]
    if differing:
        key = differing[0]
        raise InputError(
            f"--resume: {key} is {current.get(key)!r}, but {os.fspath(path)!r} was trained with {saved.get(key)!r} "
            f"({len(differing)} keys differ). Restore the config, choose another OUTPUT_DIR, or train without --resume."
        )


def _flat(node: dict, prefix: str = "") -> dict:
    flat: dict = {}
    for key, value in node.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat
