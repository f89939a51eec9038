"""Checkpoint files that anybody may have written: read without running what is in them."""

from __future__ import annotations

import mmap
import os
import pickle

import numpy as np
import torch

from ...utils.errors import InputError
from ...utils.io import open_regular
from ...utils.memory_budget import OverBudgetError
from .limited_pickle import RefusedError
from .plain_pickle import load_plain_pickle
from .torch_file import OLD_TORCH, load_torch_file

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"

# The first bytes of what people take for a checkpoint, and what it is.
_OTHERS = {
    b"<": "a web page or XML; the download has saved an error page, so fetch the file again",
    b"version https://git-lfs": "a Git LFS pointer; `git lfs pull` fetches the file itself",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"\x89HDF": "an HDF5 file",
    b"{": "JSON",
}


def read_checkpoint(path: str | os.PathLike, trust: bool = False) -> dict:
    """
    Read a file of torch (``.pth``), of Detectron2's or Detectron's model zoo (``.pkl``) or of pycls (``.pyth``).

    What a file is, its first bytes tell, not its name. Tensors and plain containers are read without running anything;
    a file that needs more is refused, and nothing of it has run.

    Args:
        path: a file on disk.
        trust: let Python's pickle run what a file asks for, if it needs that. Only for files from people you trust as
            if they sat at your keyboard.

    Returns:
        {"model": {name: tensor on the CPU}, ...} with all else that the file holds. Files of Detectron
        and pycls also get "__author__" and "matching_heuristics", as Detectron2 reads them.

    Raises:
        InputError: for anything that is no such checkpoint, and for one that needs ``trust``; nothing else.
    """
    path = os.fspath(path)
    try:
        return _normalised(path, _read(path, check_kind(path), trust))
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"{path!r} is not a readable checkpoint: it is nested too deeply.") from error
    except Exception as error:  # torch, pickle and zipfile each have their own for a broken file
        reason = f"{type(error).__name__}: {error}".split("\n", 1)[0][:300]
        raise InputError(
            f"{path!r} is not a readable checkpoint ({reason}); it may be truncated or of another program."
        ) from error


def check_kind(path: str) -> bytes:
    """
    Look at the first bytes of a file, which is quick.

    Returns:
        those that tell its kind; empty if it is of none that is known, which may still be an old pickle.

    Raises:
        InputError: if it is a folder, empty, can't be read or is a known kind that is no checkpoint.
    """
    if os.path.isdir(path):
        raise InputError(f"{path!r} is a folder; name the checkpoint in it, such as {os.path.join(path, 'model.pth')}.")
    try:
        with open_regular(path) as file:
            start = file.read(64)
    except OSError as error:
        raise InputError(f"The checkpoint {path!r} can't be read: {error.strerror}.") from error
    if not start:
        raise InputError(f"{path!r} is an empty file; fetch or train the checkpoint again.")
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
        # Mapped, so that a size which a broken file states is never allocated.
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return load_plain_pickle(mapped, os.path.getsize(path))
    except pickle.UnpicklingError as error:
        if not trust and _is_refusal(error):
            raise InputError(_refusal(path, f"asks for {_in_a_line(error)}")) from error
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


def _in_a_line(error: Exception) -> str:
    """Without torch's own advice, which is to switch the check off."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0])[:200]


def _refusal(path: str, what: str) -> str:
    return (
        f"{path!r} holds more than tensors and plain values ({what}); loading it could run code that the file chooses. "
        "If you trust where it comes from as you trust a program that you run, add MODEL.TRUST_WEIGHTS True "
        "(--trust of the tools); tools/convert_checkpoint.py then writes a copy that needs no trust."
    )


def _normalised(path: str, content) -> dict:
    """As {"model": ...}, whatever the layout; in Detectron2's terms."""
    if not isinstance(content, dict):
        raise InputError(f"{path!r} holds a {type(content).__name__}, not the dict of tensors that a checkpoint is.")
    if "model_state" in content and "model" not in content:  # pycls
        state = _state(path, content["model_state"])
        for name in [name for name in state if name.endswith("num_batches_tracked")]:
            del state[name]
        return {"model": state, "__author__": "pycls", "matching_heuristics": True}
    if "model" in content:
        return {**content, "model": _state(path, content["model"])}
    blobs = content.get("blobs", content)
    if blobs is not content or all(isinstance(value, np.ndarray) for value in content.values()):  # Detectron
        if isinstance(blobs, dict):
            blobs = {name: value for name, value in blobs.items() if not str(name).endswith("_momentum")}
        return {"model": _state(path, blobs), "__author__": "Caffe2", "matching_heuristics": True}
    return {"model": _state(path, content)}


def _state(path: str, state) -> dict:
    """The same dict, whose ``_metadata`` torch reads, with tensors for NumPy's arrays."""
    if not isinstance(state, dict) or not state:
        raise InputError(f"{path!r} has no tensors under 'model', where a checkpoint has its weights by name.")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, (torch.Tensor, np.ndarray)):
            raise InputError(
                f"{path!r} is not a checkpoint of a model: its entry {str(name)[:80]!r} is a {type(value).__name__}, "
                "not a tensor."
            )
        if isinstance(value, np.ndarray):
            value = state[name] = torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape))
        if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise InputError(f"{path!r}: the tensor {name[:80]!r} is not a dense one with its values in the file.")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InputError(
                f"{path!r}: the tensor {name[:80]!r} states a shape of {tuple(value.shape)}, for which the file has no "
                "values."
            )
    return state
