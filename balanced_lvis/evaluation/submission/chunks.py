"""Chunks of detections on the disk, from which an interrupted export is resumed."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ...utils.checksums import MANIFEST
from ...utils.errors import InputError
from ...utils.io import write_json
from ..detection_store import FILES, Detections, DetectionWriter

logger = logging.getLogger(__name__)

_ORIGIN = "origin.json"
_PARTIAL = ".partial"


class Chunks:
    """
    Chunk n contains the detections of images n * size to (n + 1) * size, in the order of the dataset.

    A chunk is renamed to its final name when it is complete and on the disk, so that the folder shows what is done,
    after any interruption and with any number of processes. Checksums are verified when an export is resumed and when
    chunks are read.

    Args:
        folder: folder of the chunks.
        size: number of images per chunk; the last chunk may have fewer.
    """

    def __init__(self, folder: str | os.PathLike, size: int):
        self.folder = Path(folder)
        self.size = size

    def begin(self, origin: Mapping[str, str], num_images: int) -> None:
        """
        Create the folder, or resume an export with the same origin; damaged chunks are removed.

        Called by one process, before any process writes.

        Args:
            origin: values that the detections depend on, by name.
            num_images: number of images in the dataset.

        Raises:
            InputError: if the chunks in the folder have another origin.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        origin = {**origin, "images per chunk": str(self.size)}
        path = self.folder / _ORIGIN
        found = _read(path)
        if found is None:
            if lost := self._remove(lambda name: not name.endswith(_PARTIAL)):
                logger.warning("%s is missing or damaged: %d chunks will be computed again", path, lost)
            write_json(path, origin, indent=1)
        elif different := [key for key in {**origin, **found} if origin.get(key) != found.get(key)]:
            raise InputError(
                f"{self.folder} contains detections of an interrupted export with another "
                f"{', another '.join(different)}; choose another --output, or delete that folder to start again."
            )
        self._remove(lambda name: name.endswith(_PARTIAL))
        self._remove_damaged(num_images)

    def _remove(self, is_wanted) -> int:
        paths = [path for path in self.folder.iterdir() if path.is_dir() and is_wanted(path.name)]
        for path in paths:
            shutil.rmtree(path)
        return len(paths)

    def _remove_damaged(self, num_images: int) -> None:
        numbers = [number for number in self._numbers(num_images) if self._path(number).exists()]
        damaged = {number: reason for number in numbers if (reason := self._damage(number, num_images))}
        for number in damaged:
            shutil.rmtree(self._path(number))
        if damaged:
            logger.warning(
                "%d of %d chunks in %s are damaged and will be computed again. The first: %s",
                len(damaged), len(numbers), self.folder, next(iter(damaged.values())),
            )  # fmt: skip

    def _damage(self, number: int, num_images: int) -> str:
        """Description of damage to a chunk, after reading every byte; "" if it is intact."""
        found = Detections(self._path(number))
        if reason := found.damage():
            return reason
        expected = len(self.images(number, num_images))
        return "" if len(found.images) == expected else f"{found.folder} has {len(found.images)} images, not {expected}"

    def _numbers(self, num_images: int) -> range:
        return range(-(-num_images // self.size))

    def images(self, number: int, num_images: int) -> range:
        """Positions of the images of a chunk in the dataset."""
        return range(number * self.size, min((number + 1) * self.size, num_images))

    def missing(self, num_images: int) -> list[int]:
        """
        Numbers of the missing chunks.

        Args:
            num_images: number of images in the dataset.
        """
        return [number for number in self._numbers(num_images) if not self._path(number).is_dir()]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}"

    @contextlib.contextmanager
    def writing(self, number: int) -> Iterator[DetectionWriter]:
        """Context with a writer for a chunk. After an error, the incomplete chunk is removed."""
        path = self._path(number)
        partial = path.with_name(path.name + _PARTIAL)
        writer = DetectionWriter(partial)
        try:
            yield writer
        except BaseException:
            with contextlib.suppress(OSError):  # perhaps the same error
                writer.close()
            shutil.rmtree(partial, ignore_errors=True)
            raise
        writer.close()
        for name in (*FILES, MANIFEST):
            _sync(partial / name)
        os.rename(partial, path)

    def detections(self, num_images: int, category_ids: Sequence[int] | None = None) -> Iterator[Detections]:
        """
        Read all chunks.

        Args:
            num_images: number of images in the dataset.
            category_ids: as for :class:`balanced_lvis.evaluation.detection_store.Detections`.

        Yields:
            the detections of each chunk.

        Raises:
            StorageError: if a chunk is damaged; :meth:`begin` removes it.
        """
        for number in self._numbers(num_images):
            found = Detections(self._path(number), category_ids)
            found.require_whole()
            yield found

    def delete(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path) -> dict | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # missing or damaged
        return None
    return found if isinstance(found, dict) else None


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
