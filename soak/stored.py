"""Damage to the stored chunks of an interrupted export."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np

from balanced_lvis.evaluation.submission.chunks import Chunks
from balanced_lvis.evaluation.submission.results_writer import write_submission

_IMAGES, _SIZE = 6, 2
_ORIGIN = {"checkpoint": "soak"}
UNDAMAGED = json.dumps({"seed": None}).encode()


def drawn_damage(data: bytes, rng: random.Random) -> bytes:
    """Content of a file with a seed that determines the damage."""
    return json.dumps({"seed": rng.randrange(2**32)}).encode()


def export_damaged(path: Path) -> None:
    """
    Interrupt an export, damage a file of its chunks, and resume it or write the chunks as they are.

    Args:
        path: path of a file from :func:`drawn_damage`.

    Raises:
        StorageError: if damaged chunks are written without resuming.
        AssertionError: if the submission differs from that of an undisturbed export.
    """
    seed = json.loads(path.read_bytes())["seed"]
    folder = path.parent / "chunks"
    shutil.rmtree(folder, ignore_errors=True)
    expected = _exported(folder, path.parent / "expected")
    if seed is not None:
        rng = random.Random(seed)
        _damage(rng.choice(sorted(file for file in folder.rglob("*") if file.is_file())), rng)
        if rng.random() < 0.3:
            Chunks(folder, _SIZE).begin(_ORIGIN, _IMAGES)
            assert _exported(folder, path.parent / "found", begin=False) == expected
            return
    assert _written(folder, path.parent / "found") == expected


def _exported(folder: Path, stem: Path, begin: bool = True) -> list[bytes]:
    chunks = Chunks(folder, _SIZE)
    if begin:
        chunks.begin(_ORIGIN, _IMAGES)
    for number in chunks.missing(_IMAGES):
        with chunks.writing(number) as writer:
            for image in chunks.images(number, _IMAGES):
                numbers = np.arange(1, 4)
                boxes = np.stack([numbers, numbers, numbers + image, numbers + 2], 1)
                rles = [{"size": [10, 20], "counts": "P146000000000\\3"}] * len(numbers)
                writer.write(image, boxes, numbers / 4, numbers, rles)
    return _written(folder, stem)


def _written(folder: Path, stem: Path) -> list[bytes]:
    files = write_submission(lambda: Chunks(folder, _SIZE).detections(_IMAGES), stem)
    return [written.path.read_bytes() for written in files]


def _damage(path: Path, rng: random.Random) -> None:
    """Truncate a file, change a part of it or remove it."""
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content))
    end = min(len(content), at + rng.choice((1, 4, 100)))
    kind = rng.randrange(4)
    if kind == 0:
        os.truncate(path, at)
    elif kind == 1:
        path.unlink()
    else:
        content[at:end] = rng.randbytes(end - at) if kind == 2 else b""
        path.write_bytes(content)
