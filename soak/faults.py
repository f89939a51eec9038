"""Kills at certain points while a checkpoint is saved, and damage to the files of a run."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path

from balanced_lvis.engine.checkpoints import saving
from balanced_lvis.engine.checkpoints.checkpoint_folder import damage_of
from balanced_lvis.utils.io import replacing

WRITING = ("weights", "before rename", "before last_checkpoint", "last_checkpoint", "after last_checkpoint")
_POINTER_DAMAGE = ("last_checkpoint missing", "last_checkpoint invalid", "last_checkpoint names a missing file")


@dataclass
class Fault:
    """
    SIGKILL while a checkpoint is written.

    Attributes:
        place: one of :data:`WRITING`. "before rename" is after all weights are written.
        save: index of the checkpoint in the process, from 0.
        byte: position in the file, for "weights".
    """

    place: str
    save: int
    byte: int

    @classmethod
    def drawn(cls, rng: random.Random) -> Fault:
        place = rng.choices(WRITING, [3, 1, 1, 1, 1])[0]
        return cls(place, rng.choice((0, 0, 1)), rng.choice((0, 1, rng.randrange(20_000_000))))

    def arm(self) -> None:
        """Activate the fault in this process."""
        self._files = 0  # two per checkpoint: the checkpoint and last_checkpoint
        saving.replacing = self._replacing  # type: ignore[assignment]  # in this process only

    @contextlib.contextmanager
    def _replacing(self, path, mode="w", **options):
        place = self.place if self._files // 2 == self.save else None
        is_pointer = self._files % 2 == 1
        self._files += 1
        if is_pointer and place == "before last_checkpoint":
            _kill()
        with replacing(path, mode, **options) as file:
            if is_pointer and place == "last_checkpoint":
                file.write("model_")
                file.flush()
                _kill()
            yield _Counting(file, self.byte) if not is_pointer and place == "weights" else file
            if not is_pointer and place in ("weights", "before rename"):
                _kill()
        if is_pointer and place == "after last_checkpoint":
            _kill()


class _Counting:
    """A file that kills the process at a certain byte."""

    def __init__(self, file, byte: int):
        self._file, self._left = file, byte

    def write(self, data) -> int:
        if len(data) > self._left:
            self._file.write(bytes(memoryview(data))[: self._left])
            self._file.flush()
            _kill()
        self._left -= len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def damage(folder: Path, rng: random.Random) -> str:
    """
    Damage a folder of checkpoints as a faulty disk, a power failure or a user could.

    Args:
        folder: folder with at least two intact checkpoints, one of which stays intact.
        rng: random generator.

    Returns:
        the type of damage.
    """
    whole = [path for path in folder.glob("model_*.pth") if damage_of(path) is None]
    newest = max(whole, key=lambda path: path.stat().st_mtime_ns)
    pointer = folder / "last_checkpoint"
    kind = rng.choice(("truncated", "byte changed", "emptied", *_POINTER_DAMAGE))
    if kind == "truncated":
        os.truncate(newest, rng.randrange(newest.stat().st_size))
    elif kind == "emptied":
        os.truncate(newest, 0)
    elif kind == "byte changed":
        _change_a_byte(newest, rng)
    elif kind == _POINTER_DAMAGE[0]:
        pointer.unlink(missing_ok=True)
    else:
        pointer.write_bytes(rng.randbytes(20) if kind == _POINTER_DAMAGE[1] else b"model_0999999.pth")
    return kind


def _change_a_byte(path: Path, rng: random.Random) -> None:
    """Change a byte of the weights; elsewhere in the file, a byte may have no effect."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content) // 4, len(content) // 2)] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
