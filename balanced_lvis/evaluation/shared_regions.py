"""
Stored detections of several settings of one model, whose boxes and masks are stored once.

The settings choose from the regions of an image: boxes with masks, in a store of :mod:`.detection_store`. A detection
of a setting takes 16 bytes more, for its region, class and score.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from ..utils.checksums import CheckedFolder, DamagedFileError, check_folder
from ..utils.errors import StorageError
from ..utils.ranges import concatenated_ranges
from .detection_store import Detections

# One row per detection, setting by setting in each image. The region is counted from the first one of its image.
SELECTED = np.dtype([("region", "<i4"), ("class", "<i4"), ("score", "<f8")])
_COUNT = np.dtype("<i4")  # number of detections, one per image and setting
COUNTS, DETECTIONS = "counts", "detections"
FILES = (COUNTS, DETECTIONS)


class SelectionWriter(CheckedFolder):
    """
    Writes the detections of all settings to a folder; :class:`Selections` reads them.

    Args:
        folder: path of the folder. It is created if needed; files of an earlier writer are overwritten.
    """

    def __init__(self, folder: str | os.PathLike):
        super().__init__(folder, FILES)

    def write(self, selections: Sequence[tuple]) -> None:
        """
        Append the detections of an image.

        Args:
            selections: per setting, (D,) index of the region of each detection among those of the image, (D,) scores
                and (D,) class indices 0..K-1, best first.
        """
        counts = np.array([len(scores) for _, scores, _ in selections], _COUNT)
        rows = np.empty(counts.sum(), SELECTED)
        for name, parts in zip(("region", "score", "class"), zip(*selections)):
            rows[name] = np.concatenate(parts)
        self.files[COUNTS].write(counts.tobytes())
        self.files[DETECTIONS].write(rows.tobytes())


class Selections:
    """
    The detections of all settings, as a :class:`SelectionWriter` wrote them.

    Args:
        folder: folder of the writer.
        regions: the regions of the same images in the same order. Classes and scores are not used.
        num_settings: number of settings.
        category_ids: (K,) category id of each class index; None for class index + 1, as in LVIS.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        regions: Detections,
        num_settings: int,
        category_ids: Sequence[int] | None = None,
    ):
        self.folder = Path(folder)
        self.regions = regions
        self.num_settings = num_settings
        self._category_ids = category_ids

    def require_whole(self) -> None:
        """
        Verify the files of the selections and of the regions.

        Raises:
            StorageError: if they are damaged.
        """
        self.regions.require_whole()
        try:
            check_folder(self.folder, FILES)
            problem = "" if len(self._counts) == len(self.regions.images) else "they are of different images"
        except (DamagedFileError, ValueError) as error:
            problem = str(error)
        if problem:
            raise StorageError(f"Stored detections are damaged: {problem}. Check the disk, then run the command again.")

    @cached_property
    def _counts(self) -> np.ndarray:
        """(I, S) number of detections by image and setting."""
        return np.fromfile(self.folder / COUNTS, _COUNT).reshape(-1, self.num_settings)

    def of(self, setting: int, image_ids: Collection[int] | None = None) -> Detections:
        """
        The detections of one setting.

        Args:
            setting: index of the setting.
            image_ids: images to restrict to; None for all.
        """
        images = self.regions.images
        counts = self._counts
        stops = counts.cumsum(dtype=np.int64).reshape(counts.shape)
        kept = np.ones(len(images), bool) if image_ids is None else np.isin(images["id"], list(image_ids))
        number = counts[kept, setting]
        rows = concatenated_ranges(stops[kept, setting] - number, number)
        found = np.empty(0, SELECTED)
        if len(rows):
            found = np.memmap(self.folder / DETECTIONS, SELECTED, mode="r")[rows]
        first = np.cumsum(images["detections"], dtype=np.int64) - images["detections"]
        region = np.repeat(first[kept], number) + found["region"]
        chosen = images[kept]
        chosen["detections"] = number
        return _Selected(self.regions, chosen, region, found, self._category_ids)


class _Selected(Detections):
    """
    Detections whose boxes and masks are those of regions.

    Args:
        regions: the store of the regions.
        images: (I,) structured array of :data:`.detection_store.IMAGE`.
        region: (N,) row of the region of each detection.
        found: (N,) structured array of :data:`SELECTED`.
        category_ids: as for ``Detections``.
    """

    def __init__(self, regions: Detections, images, region, found, category_ids):
        super().__init__(regions.folder, category_ids)
        self._regions = regions
        self._region = region
        self.images = images
        self.classes = np.ascontiguousarray(found["class"])
        self.scores = np.ascontiguousarray(found["score"])

    def __len__(self) -> int:
        return len(self._region)

    @cached_property
    def boxes(self) -> np.ndarray:
        return self._regions.boxes[self._region]

    @property
    def has_masks(self) -> bool:
        return len(self) > 0 and self._regions.has_masks

    def rles(self, rows: np.ndarray) -> Iterator[dict]:
        return self._regions.rles(self._region[rows])

    def require_whole(self) -> None:
        self._regions.require_whole()

    def delete(self) -> None:
        """Nothing: the files are those of all settings."""
