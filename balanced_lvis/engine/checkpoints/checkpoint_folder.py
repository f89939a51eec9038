"""The checkpoints of an output folder: which of them is the newest that can be gone on from."""

from __future__ import annotations

import logging
import os
import zipfile
from dataclasses import dataclass

from ...utils.errors import InputError
from .torch_file import load_torch_file

logger = logging.getLogger(__name__)

POINTER = "last_checkpoint"  # Detectron2's, which holds a file's name
PARTIAL = ".partial"


@dataclass
class _Candidate:
    name: str
    run: str
    iteration: int
    modified: float


def newest_checkpoint(folder: str | os.PathLike) -> str:
    """
    The newest checkpoint of a training that is whole, whatever ``last_checkpoint`` says.

    That is the one that ``last_checkpoint`` names or, if a run was killed after it had written a later one and before
    it had noted its name, that one. Where the note is missing, or the file that it names is missing or damaged, the
    latest of the same run that is whole; of the run that wrote last, if that can't be told either.

    All bytes of the file that is returned have been read, and their checksums are right.

    Args:
        folder: ``OUTPUT_DIR`` of a run; it need not exist.

    Returns:
        the file's path; empty if there is neither a checkpoint nor a note of one.

    Raises:
        InputError: if there are checkpoints or a note of one, but none that is whole.
    """
    noted = _noted(folder)
    names = _files(folder)
    if not names and noted is None:
        return ""
    broken: dict[str, str] = {}
    candidates = [found for name in names if (found := _look(folder, name, broken))]
    for candidate in _in_order(candidates, noted, _modified(os.path.join(folder, POINTER))):
        path = os.path.join(folder, candidate.name)
        reason = damage_of(path)
        if reason is None:
            _report(folder, noted, candidate.name, broken)
            return path
        broken[candidate.name] = reason
    listed = "; ".join(f"{name}: {reason}" for name, reason in broken.items()) or "there is no checkpoint"
    raise InputError(
        f"--resume: {folder} has no checkpoint that can be gone on from ({listed})"
        + (f", and {POINTER} names {noted!r}" if noted is not None else "")
        + f". Copy a whole one there, or delete these files, {POINTER} among them, to start anew."
    )


def remove_partial(folder: str | os.PathLike) -> None:
    """Delete what a run that was killed while it wrote a checkpoint has left."""
    for name in _listed(folder):
        if name.endswith((".pth" + PARTIAL, POINTER + PARTIAL)):
            os.unlink(os.path.join(folder, name))


def _noted(folder) -> str | None:
    """What ``last_checkpoint`` says; None if there is no such file."""
    try:
        with open(os.path.join(folder, POINTER), "rb") as file:
            return file.read(4096).decode("utf-8", "replace").strip()
    except OSError:
        return None


def _files(folder) -> list[str]:
    pth = (name for name in _listed(folder) if name.endswith(".pth"))
    return [name for name in pth if os.path.isfile(os.path.join(folder, name))]


def _listed(folder) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _modified(path) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _look(folder, name: str, broken: dict[str, str]) -> _Candidate | None:
    """What a file says of itself, without reading its tensors; None, and noted in ``broken``, if it is no candidate."""
    path = os.path.join(folder, name)
    try:
        content = load_torch_file(path, mapped=True)
        trainer = content["trainer"]
        run = str(trainer.get("run", ""))  # stock Detectron2's have none
        return _Candidate(name, run, int(trainer["iteration"]), _modified(path))
    except (KeyError, TypeError, AttributeError):
        broken[name] = "holds no state of a training"
    except Exception as error:  # torch, pickle and zipfile each have their own for a broken file
        broken[name] = f"is damaged or unfinished ({_in_a_line(error)})"
    return None


def _in_order(candidates: list[_Candidate], noted: str | None, noted_at: float) -> list[_Candidate]:
    """The best first."""
    if not candidates:
        return []
    chosen = next((one for one in candidates if one.name == noted), None)
    run = (chosen or max(candidates, key=lambda one: (one.modified, one.iteration))).run

    def rank(one: _Candidate):
        if one.run != run:
            return 0, 0, one.modified
        if one is chosen:
            return 3, one.iteration, one.modified
        if chosen is None or one.iteration <= chosen.iteration:
            return 2, one.iteration, one.modified
        # A later one that was there when the note was written was passed over by whoever wrote it: a user, perhaps.
        return 4 if one.modified > noted_at else 1, one.iteration, one.modified

    return sorted(candidates, key=rank, reverse=True)


def damage_of(path: str | os.PathLike) -> str | None:
    """What is wrong with a file's bytes, of which each is read; None if nothing is."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as error:  # zipfile and zlib each have their own
        return f"is damaged ({_in_a_line(error)})"
    return bad and f"is damaged: the checksum of {bad} is wrong"


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _report(folder, noted: str | None, chosen: str, broken: dict[str, str]) -> None:
    if noted is not None and noted != chosen:
        logger.warning("%s in %s names %r, but the newest whole checkpoint is %s.", POINTER, folder, noted, chosen)
    for name, reason in broken.items():
        logger.warning("%s in %s %s; it is left out.", name, folder, reason)
