"""Streaming writer of submission files."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from ...utils.io import replacing, write_list
from ...utils.text import one_line
from ..backends import highest_per_image
from ..detection_store import Detections
from ..lvis_api import MAX_DETECTIONS_PER_IMAGE
from .compressed_rle import mask_areas

# Rows converted to Python objects at a time.
_BATCH = 5_000


@dataclass(frozen=True)
class Written:
    """
    Summary of a submission file.

    Attributes:
        path: path of the file.
        num_images: number of images with a detection.
        num_detections: number of detections.
        over_limit: number of detections left out because of the limit per image.
        without_area: number of detections left out because their box or mask has no area; no evaluation counts them.
    """

    path: Path
    num_images: int
    num_detections: int
    over_limit: int
    without_area: int

    def __str__(self):
        left_out = [(self.over_limit, f"beyond {MAX_DETECTIONS_PER_IMAGE} per image"), (self.without_area, "empty")]
        words = "".join(f", {count:,} {reason} left out" for count, reason in left_out if count)
        return f"{self.path}: {self.num_detections:,} detections in {self.num_images:,} images{words}"


@dataclass
class _Counts:
    images: int = 0
    detections: int = 0
    over_limit: int = 0
    without_area: int = 0


def write_submission(
    parts: Callable[[], Iterable[Detections]],
    stem: str | os.PathLike,
    boxes: bool = True,
    masks: bool = True,
    zipped: bool = False,
    max_dets: int = MAX_DETECTIONS_PER_IMAGE,
) -> list[Written]:
    """
    Write STEM_segm.json and STEM_bbox.json atomically, without holding them in memory.

    For each image, the ``max_dets`` highest-scoring detections over all categories are kept, of equal scores the first.
    Detections without area count among them and are then left out. The LVIS API does the same, so the metrics of the
    files equal those of the detections.

    Args:
        parts: function that returns the detections, called once per file; the detections of an image are in one part.
        stem: path of the files without suffix.
        boxes, masks: which files to write.
        zipped: write STEM_segm.json.zip and STEM_bbox.json.zip instead.
        max_dets: number of highest-scoring detections kept per image.

    Returns:
        a summary of each file, the mask file first.
    """
    written = []
    for task, is_wanted in (("segm", masks), ("bbox", boxes)):
        if is_wanted:
            path = Path(f"{os.fspath(stem)}_{task}.json{'.zip' if zipped else ''}")
            counts = _Counts()
            with _open(path) as file, tqdm(desc=one_line(path.name), unit="det", unit_scale=True, disable=None) as bar:
                write_list(file, _counted(_records(parts(), task, max_dets, counts), bar))
            written.append(Written(path, counts.images, counts.detections, counts.over_limit, counts.without_area))
    return written


@contextlib.contextmanager
def _open(path: Path) -> Iterator[IO[str]]:
    if path.suffix != ".zip":
        with replacing(path) as file:
            yield file
        return
    with replacing(path, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        # Without a timestamp, so that the same detections give the same file.
        member = zipfile.ZipInfo(path.stem)
        member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
        with archive.open(member, "w", force_zip64=True) as content:
            text = io.TextIOWrapper(content, encoding="utf-8", write_through=True)
            yield text
            text.detach()


def _counted(batches: Iterable[list], bar) -> Iterator[list]:
    for batch in batches:
        yield batch
        bar.update(len(batch))


def _records(parts: Iterable[Detections], task: str, max_dets: int, counts: _Counts) -> Iterator[list[dict]]:
    for part in parts:
        image_ids, images = np.unique(part.image_ids, return_inverse=True)
        kept = np.flatnonzero(highest_per_image(images, part.scores, max_dets))
        counts.over_limit += len(part) - len(kept)
        used = np.zeros(len(image_ids), bool)
        columns = (part.image_ids, part.category_ids, part.scores)
        masks = iter(part.rles(kept) if task == "segm" else ())
        for start in range(0, len(kept), _BATCH):
            rows = kept[start : start + _BATCH]
            shapes, areas = _masks(masks, len(rows)) if task == "segm" else _boxes(part.boxes[rows])
            ids = (column[rows].tolist() for column in columns)
            key = "segmentation" if task == "segm" else "bbox"
            names = ("image_id", "category_id", "score", key)
            batch = [dict(zip(names, values)) for values, area in zip(zip(*ids, shapes), areas) if area > 0]
            used[images[rows[areas > 0]]] = True
            counts.detections += len(batch)
            counts.without_area += len(rows) - len(batch)
            yield batch
        counts.images += int(used.sum())


def _masks(rles: Iterator[dict], number: int) -> tuple[list[dict], np.ndarray]:
    """The next masks in results format, and their areas in pixels."""
    masks = [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for _, rle in zip(range(number), rles)]
    pixels = np.array([mask["size"][0] * mask["size"][1] for mask in masks], np.int64)
    areas, _ = mask_areas([mask["counts"] for mask in masks], pixels)
    return masks, areas


def _boxes(boxes: np.ndarray) -> tuple[list[list[float]], np.ndarray]:
    return boxes.tolist(), boxes[:, 2] * boxes[:, 3]
