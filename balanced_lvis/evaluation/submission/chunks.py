"""A data set's detections as chunks on the disk, some images each: what survives when an export is killed."""

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
    Chunk n holds the detections of images n * size to (n + 1) * size, in the data set's order.

    A chunk takes its name when it is complete and on the disk, so that the folder's listing tells what is done,
    whenever a process was killed and however many there were. What the disk has lost or altered since is found by
    checksums: when an export is resumed, and when chunks are read.

    Args:
        folder: of the chunks.
        size: images of a chunk; the last may have fewer.
    """

    def __init__(self, folder: str | os.PathLike, size: int):
        self.folder = Path(folder)
        self.size = size

    def begin(self, origin: Mapping[str, str], num_images: int) -> None:
        """
        Make the folder, or resume the one of the same origin, without its damaged chunks; for one process, before
        others write.

        Args:
            origin: what detections follow from, in words by name.
            num_images: of the data set.

        Raises:
            InputError: if the folder's chunks are of another origin.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        origin = {**origin, "images per chunk": str(self.size)}
        path = self.folder / _ORIGIN
        found = _read(path)
        if found is None:
            if lost := self._remove(lambda name: not name.endswith(_PARTIAL)):
                logger.warning("%s is missing or damaged: %d chunks are computed again", path, lost)
            write_json(path, origin, indent=1)
        elif different := [key for key in {**origin, **found} if origin.get(key) != found.get(key)]:
            raise InputError(
                f"{self.folder} holds detections of an interrupted export with another {', another '.join(different)}; "
                f"choose another --output, or delete that folder to start anew."
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
                "%d of %d chunks in %s are damaged, and are computed again. The first: %s",
                len(damaged), len(numbers), self.folder, next(iter(damaged.values())),
            )  # fmt: skip

    def _damage(self, number: int, num_images: int) -> str:
        """What is wrong with a chunk, of which every byte is read; "" if nothing is."""
        found = Detections(self._path(number))
        if reason := found.damage():
            return reason
        expected = len(self.images(number, num_images))
        return "" if len(found.images) == expected else f"{found.folder} has {len(found.images)} images, not {expected}"

    def _numbers(self, num_images: int) -> range:
        return range(-(-num_images // self.size))

    def images(self, number: int, num_images: int) -> range:
        """Positions of a chunk's images in the data set."""
        return range(number * self.size, min((number + 1) * self.size, num_images))

    def missing(self, num_images: int) -> list[int]:
        """
        Numbers of the chunks that are to be made yet.

        Args:
            num_images: of the data set.
        """
        return [number for number in self._numbers(num_images) if not self._path(number).is_dir()]

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
            with contextlib.suppress(OSError):  # such as the one that has brought it here
                writer.close()
            shutil.rmtree(partial, ignore_errors=True)
            raise
        writer.close()
        for name in (*FILES, MANIFEST):
            _sync(partial / name)
        os.rename(partial, path)

    def detections(self, num_images: int, category_ids: Sequence[int] | None = None) -> Iterator[Detections]:
        """
        Args:
            num_images: of the data set.
            category_ids: as of :class:`balanced_lvis.evaluation.detection_store.Detections`.

        Yields:
            chunk after chunk, all of which are there.

        Raises:
            StorageError: if one is damaged; :meth:`begin` removes it.
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
    except (OSError, ValueError, RecursionError):  # none yet; or not ours
        return None
    return found if isinstance(found, dict) else None


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
