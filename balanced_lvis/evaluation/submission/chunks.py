"""A data set's detections as chunks on the disk, some images each: what survives when an export is killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ...errors import InputError
from ...io import write_json
from ..store import FILES, Detections, DetectionWriter

_ORIGIN = "origin.json"
_PARTIAL = ".partial"


class Chunks:
    """
    Chunk n holds the detections of images n * size to (n + 1) * size, in the data set's order.

    A chunk takes its name when it is complete and on the disk, so that the folder's listing tells what is done,
    whenever a process was killed and however many there were.

    Args:
        folder: of the chunks.
        size: images of a chunk; the last may have fewer.
    """

    def __init__(self, folder: str | os.PathLike, size: int):
        self.folder = Path(folder)
        self.size = size

    def begin(self, origin: Mapping[str, str]) -> None:
        """
        Make the folder, or go on with the one of the same origin; for one process, before others write.

        Args:
            origin: what detections follow from, in words by name.

        Raises:
            InputError: if the folder's chunks are of another origin.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        origin = {**origin, "images per chunk": str(self.size)}
        path = self.folder / _ORIGIN
        found = _read(path)
        if found is None:
            self._remove(lambda name: True)
            write_json(path, origin, indent=1)
        elif different := [key for key in {**origin, **found} if origin.get(key) != found.get(key)]:
            raise InputError(
                f"{self.folder} holds detections of an interrupted export with another {', another '.join(different)}; "
                f"choose another --output, or delete that folder to start anew."
            )
        self._remove(lambda name: name.endswith(_PARTIAL))

    def _remove(self, is_wanted) -> None:
        for path in list(self.folder.iterdir()):
            if path.is_dir() and is_wanted(path.name):
                shutil.rmtree(path)

    def images(self, number: int, num_images: int) -> range:
        """Positions of a chunk's images in the data set."""
        return range(number * self.size, min((number + 1) * self.size, num_images))

    def missing(self, num_images: int) -> list[int]:
        """
        Numbers of the chunks that are to be made yet.

        Args:
            num_images: of the data set.
        """
        numbers = range(-(-num_images // self.size))
        return [n for n in numbers if not self._is_whole(n, len(self.images(n, num_images)))]

    def _is_whole(self, number: int, num_images: int) -> bool:
        """Whether a chunk is there and holds what it should: a disk that lost power may have lost files' contents."""
        path = self._path(number)
        if not all((path / name).is_file() for name in FILES):
            return False
        found = Detections(path)
        return len(found.images) == num_images and int(found.images["detections"].sum()) == len(found)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}"

    @contextlib.contextmanager
    def writing(self, number: int) -> Iterator[DetectionWriter]:
        """A writer whose detections are the chunk when all went well, and leave nothing else behind."""
        path = self._path(number)
        partial = path.with_name(path.name + _PARTIAL)
        writer = DetectionWriter(partial)
        try:
            yield writer
        except BaseException:
            writer.close()
            shutil.rmtree(partial, ignore_errors=True)
            raise
        writer.close()
        for name in FILES:
            _sync(partial / name)
        shutil.rmtree(path, ignore_errors=True)  # one that was damaged
        os.rename(partial, path)

    def detections(self, num_images: int, category_ids: Sequence[int] | None = None) -> Iterator[Detections]:
        """
        Args:
            num_images: of the data set.
            category_ids: as of :class:`balanced_lvis.evaluation.store.Detections`.

        Yields:
            chunk after chunk, all of which are there.
        """
        for number in range(-(-num_images // self.size)):
            yield Detections(self._path(number), category_ids)

    def delete(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet; or not ours
        return None


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
