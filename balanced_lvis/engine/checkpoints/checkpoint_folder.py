"""The newest checkpoint of an output folder that can be resumed."""

from __future__ import annotations

import logging
import os
import zipfile
from dataclasses import dataclass

from ...untrusted.torch_file import load_torch_file
from ...utils.errors import InputError
from ...utils.run_files import LAST_CHECKPOINT
from ...utils.text import described

logger = logging.getLogger(__name__)

PARTIAL = ".partial"


@dataclass
class _Candidate:
    name: str
    run: str
    iteration: int
    modified: float


def newest_checkpoint(folder: str | os.PathLike) -> str:
    """
    The newest intact checkpoint of a training run.

    Normally this is the file that ``last_checkpoint`` names. If the run was killed after it wrote a later checkpoint
    and before it updated ``last_checkpoint``, it is the later one. If ``last_checkpoint`` is missing, or the file that
    it names is missing or damaged, it is the latest intact checkpoint of the same run, or of the run that wrote last
    if the run is unknown.

    All bytes of the returned file were read and their checksums verified.

    Args:
        folder: ``OUTPUT_DIR`` of a run; it may be missing.

    Returns:
        path of the file; empty if there is neither a checkpoint nor ``last_checkpoint``.

    Raises:
        InputError: if there are checkpoints or ``last_checkpoint``, but no intact checkpoint.
    """
    noted = _noted(folder)
    names = _files(folder)
    if not names and noted is None:
        return ""
    broken: dict[str, str] = {}
    candidates = [found for name in names if (found := _look(folder, name, broken))]
    for candidate in _in_order(candidates, noted, _modified(os.path.join(folder, LAST_CHECKPOINT))):
        path = os.path.join(folder, candidate.name)
        reason = damage_of(path)
        if reason is None:
            _report(folder, noted, candidate.name, broken)
            return path
        broken[candidate.name] = reason
    listed = "; ".join(f"{name}: {reason}" for name, reason in broken.items()) or "no .pth file"
    raise InputError(
        f"--resume: {folder} has no checkpoint that can be resumed ({listed})"
        + (f", and {LAST_CHECKPOINT} names {noted!r}" if noted is not None else "")
        + f". Copy an intact checkpoint there, or delete these files and {LAST_CHECKPOINT} to start again."
    )


def remove_partial(folder: str | os.PathLike) -> None:
    """Delete unfinished files of a run that was killed while it wrote a checkpoint."""
    for name in _listed(folder):
        if name.endswith((".pth" + PARTIAL, LAST_CHECKPOINT + PARTIAL)):
            os.unlink(os.path.join(folder, name))


def _noted(folder) -> str | None:
    """Content of ``last_checkpoint``; None if the file is missing."""
    try:
        with open(os.path.join(folder, LAST_CHECKPOINT), "rb") as file:
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
    """Run and iteration of a file, read without its tensors; None, with the reason in ``broken``, if it has none."""
    path = os.path.join(folder, name)
    try:
        content = load_torch_file(path, mapped=True)
        trainer = content["trainer"]
        run = str(trainer.get("run", ""))  # missing in checkpoints of stock Detectron2
        return _Candidate(name, run, int(trainer["iteration"]), _modified(path))
    except (KeyError, TypeError, AttributeError):
        broken[name] = "has no state of a training run"
    except Exception as error:  # torch, pickle and zipfile raise exceptions of many types
        broken[name] = f"is damaged or unfinished ({described(error)})"
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
        # A later file that is older than last_checkpoint was not chosen when that was written, perhaps by a user.
        return 4 if one.modified > noted_at else 1, one.iteration, one.modified

    return sorted(candidates, key=rank, reverse=True)


def damage_of(path: str | os.PathLike) -> str | None:
    """Description of the damage of a file, which is read completely; None if it is intact."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as error:  # zipfile and zlib raise exceptions of many types
        return f"is damaged ({described(error)})"
    return bad and f"is damaged: the checksum of {bad} is wrong"


def _report(folder, noted: str | None, chosen: str, broken: dict[str, str]) -> None:
    if noted is not None and noted != chosen:
        logger.warning(
            "%s in %s names %r, but the newest intact checkpoint is %s.", LAST_CHECKPOINT, folder, noted, chosen
        )
    for name, reason in broken.items():
        logger.warning("%s in %s %s; it is ignored.", name, folder, reason)
