"""
Detections of a dataset, stored as compact arrays on the disk.

A detection takes 32 bytes plus its RLE mask; a Python dict takes about 2 KB. The 5.9 million detections of LVIS val
take 190 MB without masks.
"""

from __future__ import annotations

import math
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..utils.checksums import CheckedFolder, DamagedFileError, check_folder
from ..utils.errors import StorageError
from ..utils.io import write_json_list
from ..utils.text import one_line

# One row per call of DetectionWriter.write; height and width are those of the masks, 0 without masks.
IMAGE = np.dtype([("id", "<i8"), ("detections", "<i4"), ("height", "<i4"), ("width", "<i4")])
# One row per detection. "lengths" are numbers of bytes in MASKS, -1 without a mask. Scores are float64 as in the
# evaluation; boxes are float32 as in the model, [x, y, w, h] in pixels.
COLUMNS: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
    "classes": (np.dtype("<i4"), ()),
    "scores": (np.dtype("<f8"), ()),
    "boxes": (np.dtype("<f4"), (4,)),
    "lengths": (np.dtype("<i4"), ()),
}
EXACT = np.dtype("<f8")  # type of boxes with exact_boxes
IMAGES = "images"
MASKS = "masks"  # the "counts" of all RLEs, one after the other
FILES = (IMAGES, *COLUMNS, MASKS)
# Rows converted to Python objects at a time.
BATCH = 20_000


class DetectionWriter(CheckedFolder):
    """
    Writes detections to a folder; :class:`Detections` reads them.

    :meth:`close` stores the checksums of the files, which :meth:`Detections.damage` verifies.

    Args:
        folder: path of the folder. It is created if needed; files of an earlier writer are overwritten.
        exact_boxes: store boxes as float64, for results files of other programs.
    """

    def __init__(self, folder: str | os.PathLike, exact_boxes: bool = False):
        super().__init__(folder, FILES)
        self._types = {name: dtype for name, (dtype, _) in COLUMNS.items()}
        if exact_boxes:
            self._types["boxes"] = EXACT

    def write(self, image_id: int, boxes, scores, classes, rles: Sequence[dict] | None = None) -> None:
        """
        Append the detections of one image, or some of them.

        Args:
            image_id: id of the image in the annotation file.
            boxes: (N, 4) x, y, w, h in pixels, with float32 precision.
            scores: (N,) scores.
            classes: (N,) class indices 0..K-1.
            rles: N compressed RLE masks {"size": [height, width], "counts": str or bytes} of one size; None without
                masks.

        Raises:
            ValueError: if the arguments have different lengths, or the masks different sizes.
        """
        columns = {"classes": classes, "scores": scores, "boxes": boxes}
        counts = [_as_bytes(rle["counts"]) for rle in rles or ()]
        columns["lengths"] = [-1] * len(scores) if rles is None else [len(c) for c in counts]
        sizes = {tuple(rle["size"]) for rle in rles or ()}
        if len(sizes) > 1:
            raise ValueError(f"The masks of image {image_id} have different sizes: {sorted(sizes)}.")
        rows = {name: np.asarray(columns[name], dtype) for name, dtype in self._types.items()}
        for name, (_, shape) in COLUMNS.items():
            rows[name] = rows[name].reshape(-1, *shape)
        if {len(row) for row in rows.values()} != {len(scores)}:
            lengths = {name: len(row) for name, row in rows.items()}
            raise ValueError(f"The detections of image {image_id} have different lengths: {lengths}.")
        image = np.array([(image_id, len(scores), *(next(iter(sizes), (0, 0))))], IMAGE)
        self.files[IMAGES].write(image.tobytes())
        for name, row in rows.items():
            self.files[name].write(row.tobytes())
        self.files[MASKS].write(b"".join(counts))


def _as_bytes(counts: str | bytes) -> bytes:
    return counts.encode("ascii") if isinstance(counts, str) else counts


class Detections:
    """
    Stored detections, in the order in which a :class:`DetectionWriter` wrote them.

    Columns are read on first access, and masks only for the requested rows.

    Args:
        folder: folder of the writer.
        category_ids: (K,) category id of each class index; None for class index + 1, as in LVIS.

    Attributes:
        images: (I,) structured array of :data:`IMAGE`, one row per call of ``write``.
        image_ids: (N,) int64.
        classes: (N,) int32 class indices.
        category_ids: (N,) int64 category ids of the dataset.
        scores: (N,) float64.
        boxes: (N, 4) x, y, w, h in pixels, float32, or float64 if written with ``exact_boxes``.
    """

    def __init__(self, folder: str | os.PathLike, category_ids: Sequence[int] | None = None):
        self.folder = Path(folder)
        self._category_ids = category_ids

    def damage(self) -> str:
        """Description of damage to the files, after reading every byte; "" if they are intact."""
        try:
            checksums = check_folder(self.folder, FILES)
        except DamagedFileError as error:
            return str(error)
        lengths = np.fromfile(self.folder / "lengths", COLUMNS["lengths"][0])
        number = int(self.images["detections"].sum())
        expected = {IMAGES: [len(self.images) * IMAGE.itemsize], MASKS: [int(np.maximum(lengths, 0).sum())]}
        for name, (dtype, shape) in COLUMNS.items():
            sizes = (dtype.itemsize, EXACT.itemsize) if name == "boxes" else (dtype.itemsize,)
            expected[name] = [number * size * math.prod(shape) for size in sizes]
        wrong = [name for name, sizes in expected.items() if checksums[name].size not in sizes]
        return f"{self.folder}: {', '.join(wrong)} not the files of {number:,} detections" if wrong else ""

    def require_whole(self) -> None:
        """
        Verify the files.

        Raises:
            StorageError: if they are damaged.
        """
        if damage := self.damage():
            raise StorageError(f"Stored detections are damaged: {damage}. Check the disk, then run the command again.")

    def __len__(self) -> int:
        dtype, _ = COLUMNS["scores"]
        return (self.folder / "scores").stat().st_size // dtype.itemsize

    def _column(self, name: str) -> np.ndarray:
        dtype, shape = COLUMNS[name]
        if name == "boxes" and (self.folder / name).stat().st_size > 4 * dtype.itemsize * len(self):
            dtype = EXACT
        return np.fromfile(self.folder / name, dtype).reshape(-1, *shape)

    @cached_property
    def images(self) -> np.ndarray:
        return np.fromfile(self.folder / IMAGES, IMAGE)

    @property
    def num_images(self) -> int:
        """Number of images that were written, with or without detections."""
        return len(np.unique(self.images["id"]))

    @property
    def image_ids(self) -> np.ndarray:
        return np.repeat(self.images["id"], self.images["detections"])

    @cached_property
    def classes(self) -> np.ndarray:
        return self._column("classes")

    @property
    def category_ids(self) -> np.ndarray:
        return self.category_ids_of_classes()[self.classes]

    def category_ids_of_classes(self) -> np.ndarray:
        """(K,) int64 category ids by class index; without ``category_ids``, up to the highest class that occurs."""
        if self._category_ids is None:
            return np.arange(1, self.classes.max(initial=-1) + 2, dtype=np.int64)
        return np.asarray(self._category_ids, np.int64)

    @cached_property
    def scores(self) -> np.ndarray:
        return self._column("scores")

    @cached_property
    def boxes(self) -> np.ndarray:
        return self._column("boxes")

    @property
    def has_masks(self) -> bool:
        """Whether there are masks; False without detections."""
        return (self.folder / MASKS).stat().st_size > 0

    @cached_property
    def _mask_offsets(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(np.maximum(self._column("lengths"), 0), dtype=np.int64)])

    @cached_property
    def _mask_sizes(self) -> list[list[int]]:
        """[height, width] of each row of IMAGES."""
        return np.stack([self.images["height"], self.images["width"]], axis=1).tolist()

    @cached_property
    def _image_rows(self) -> np.ndarray:
        """(N,) row in IMAGES of each detection."""
        return np.repeat(np.arange(len(self.images), dtype=np.int32), self.images["detections"])

    def rles(self, rows: np.ndarray) -> Iterator[dict]:
        """
        Read masks.

        Args:
            rows: row numbers, ascending.

        Yields:
            the RLE mask of each row, with "counts" as bytes. Masks of one image share their "size".
        """
        with open(self.folder / MASKS, "rb") as file:
            for start in range(0, len(rows), BATCH):
                # A new mapping for each batch, so that the pages of the previous one are released.
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    batch = self._rles_in(content, rows[start : start + BATCH])
                yield from batch

    def _rles_in(self, content: mmap.mmap, rows: np.ndarray) -> list[dict]:
        begins, ends = self._mask_offsets[rows].tolist(), self._mask_offsets[rows + 1].tolist()
        sizes, images = self._mask_sizes, self._image_rows[rows].tolist()
        return [{"size": sizes[image], "counts": content[begin:end]} for begin, end, image in zip(begins, ends, images)]

    def records(self) -> Iterator[list[dict]]:
        """
        Convert to LVIS result format.

        Yields:
            batches of dicts with image_id, category_id, bbox, score and, with masks, segmentation ("counts" as str).
        """
        columns = (self.image_ids, self.category_ids, self.boxes, self.scores)
        for start in range(0, len(self), BATCH):
            rows = np.arange(start, min(start + BATCH, len(self)))
            keys = ("image_id", "category_id", "bbox", "score")
            batch = [dict(zip(keys, values)) for values in zip(*(column[rows].tolist() for column in columns))]
            if self.has_masks:
                for record, rle in zip(batch, self.rles(rows)):
                    record["segmentation"] = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
            yield batch

    def save_json(self, path: str | os.PathLike) -> None:
        """Write a results file in LVIS format atomically, with a progress bar on a terminal."""
        with tqdm(total=len(self), desc=one_line(Path(path).name), unit="det", unit_scale=True, disable=None) as bar:
            write_json_list(path, _counted(self.records(), bar))

    def delete(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _counted(batches, bar) -> Iterator[list]:
    for batch in batches:
        yield batch
        bar.update(len(batch))
