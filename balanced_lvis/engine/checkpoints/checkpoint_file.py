"""Reading of checkpoint files from untrusted sources, without running code from the file."""

from __future__ import annotations

import mmap
import os
import pickle

import numpy as np
import torch

from ...untrusted.limited_pickle import RefusedError
from ...untrusted.memory_budget import OverBudgetError
from ...untrusted.plain_pickle import load_plain_pickle
from ...untrusted.torch_file import OLD_TORCH, load_torch_file
from ...utils.errors import InputError
from ...utils.io import open_regular
from ...utils.text import described

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict")  # keys of weights of other programs
READ_AVERAGED = "read_averaged"

# First bytes of files that are often mistaken for checkpoints, with a description.
_OTHERS = {
    b"<": "a web page or XML, probably the error page of a failed download; download the file again",
    b"version https://git-lfs": "a Git LFS pointer; download the file with `git lfs pull`",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"\x89HDF": "an HDF5 file",
    b"{": "JSON",
}


def read_checkpoint(path: str | os.PathLike, trust: bool = False) -> dict:
    """
    Read a checkpoint: PyTorch's (``.pth``), the Detectron2 or Detectron model zoo's (``.pkl``) or pycls's (``.pyth``).

    The weights may be under "model", "model_state" or "state_dict", or be the whole file. Moving averages of weights
    (:data:`AVERAGED`) are read only if the file has no others.

    The format is detected from the first bytes, not from the file name. Tensors and plain containers are read without
    running code from the file. Files that need more are rejected before any of their code runs.

    Args:
        path: file on disk.
        trust: allow pickle to run code from the file, if the file needs it. Only for files from sources that you would
            also run programs from.

    Returns:
        {"model": {name: tensor on the CPU}, ...} with all other entries of the file. Files of Detectron and pycls also
        get "__author__" and "matching_heuristics", as Detectron2 reads them. If the weights are averages, their key in
        the file is under :data:`READ_AVERAGED`.

    Raises:
        InputError: if the file is not a checkpoint, or needs ``trust``. No other exception is raised.
    """
    path = os.fspath(path)
    try:
        return _normalised(path, _read(path, check_kind(path), trust))
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"{path!r} is not a readable checkpoint: it is nested too deeply.") from error
    except Exception as error:  # torch, pickle and zipfile raise exceptions of many types
        raise InputError(
            f"{path!r} is not a readable checkpoint ({described(error, 300)}); it may be truncated or written by "
            "another program."
        ) from error


def check_kind(path: str) -> bytes:
    """
    Detect the format of a file from its first bytes.

    Returns:
        the bytes that identify the format; empty if the format is unknown, which may still be an old pickle.

    Raises:
        InputError: if the path is a folder, or the file is empty, unreadable or of a known format that is not a
            checkpoint.
    """
    if os.path.isdir(path):
        raise InputError(f"{path!r} is a folder; give the checkpoint in it, such as {os.path.join(path, 'model.pth')}.")
    try:
        with open_regular(path) as file:
            start = file.read(64)
    except OSError as error:
        raise InputError(f"The checkpoint {path!r} can't be read: {error.strerror}.") from error
    if not start:
        raise InputError(f"{path!r} is an empty file; download the checkpoint again, or train again.")
    for kind in (_ZIP, OLD_TORCH, _PICKLE):
        if start.startswith(kind):
            return kind
    for other, words in _OTHERS.items():
        if start.lstrip().startswith(other):
            raise InputError(f"{path!r} is not a checkpoint but {words}.")
    return b""


def _read(path: str, kind: bytes, trust: bool):
    is_torchs = kind in (_ZIP, OLD_TORCH)
    try:
        if is_torchs:
            return load_torch_file(path)
        # Memory-mapped, so that a wrong size stated in the file is never allocated.
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return load_plain_pickle(mapped, os.path.getsize(path))
    except pickle.UnpicklingError as error:
        if not trust and _is_refusal(error):
            raise InputError(_refusal(path, f"asks for {_without_advice(error)}")) from error
        if not trust:
            raise
    except OverBudgetError as error:
        if not trust:
            raise InputError(_refusal(path, str(error))) from error
    if is_torchs:
        return load_torch_file(path, weights_only=False)
    with open(path, "rb") as file:
        return pickle.load(file, encoding="latin1")


def _is_refusal(error: pickle.UnpicklingError) -> bool:
    return isinstance(error, RefusedError) or "Unsupported" in str(error) or "GLOBAL" in str(error)


def _without_advice(error: Exception) -> str:
    """The message without torch's advice, which is to disable the check."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0])[:200]


def _refusal(path: str, what: str) -> str:
    return (
        f"{path!r} contains more than tensors and plain values ({what}); loading it could run code from the file. "
        "If you trust its source, add MODEL.TRUST_WEIGHTS True (or --trust on the command line). `balanced-lvis "
        "convert` then writes a copy that loads without it."
    )


def _normalised(path: str, content) -> dict:
    """The content as {"model": ...}, with Detectron2's keys, for files of any layout."""
    if not isinstance(content, dict):
        raise InputError(f"{path!r} contains a {type(content).__name__}, not a dict of tensors as a checkpoint does.")
    if "model_state" in content and "model" not in content:  # pycls
        state = _state(path, content["model_state"])
        for name in [name for name in state if name.endswith("num_batches_tracked")]:
            del state[name]
        return {"model": state, "__author__": "pycls", "matching_heuristics": True}
    if "model" in content:
        return {**content, "model": _state(path, content["model"])}
    if isinstance(content.get("state_dict"), dict):  # mmdetection, timm and others
        state = _state(path, content.pop("state_dict"))
        return {**content, "model": state}
    if averaged := next((key for key in AVERAGED if isinstance(content.get(key), dict)), None):
        state = _state(path, content.pop(averaged))
        return {**content, "model": state, READ_AVERAGED: averaged}
    blobs = content.get("blobs", content)
    if blobs is not content or all(isinstance(value, np.ndarray) for value in content.values()):  # Detectron
        if isinstance(blobs, dict):
            blobs = {name: value for name, value in blobs.items() if not str(name).endswith("_momentum")}
        return {"model": _state(path, blobs), "__author__": "Caffe2", "matching_heuristics": True}
    return {"model": _state(path, content)}


def _state(path: str, state) -> dict:
    """The same dict, which keeps ``_metadata``, with NumPy arrays converted to tensors."""
    if not isinstance(state, dict) or not state:
        raise InputError(f"{path!r} has no tensors under 'model', where a checkpoint has its weights.")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, (torch.Tensor, np.ndarray)):
            raise InputError(
                f"{path!r} is not a checkpoint of a model: its entry {str(name)[:80]!r} is a {type(value).__name__}, "
                "not a tensor."
            )
        if isinstance(value, np.ndarray):
            value = state[name] = torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape))
        if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise InputError(f"{path!r}: the tensor {name[:80]!r} is not a dense tensor with its values in the file.")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InputError(
                f"{path!r}: the tensor {name[:80]!r} has the shape {tuple(value.shape)}, but the file has fewer values."
            )
    return state
