"""Cache of converted files: paths, freshness and locking."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os

import portalocker

from ...utils.errors import InputError, StorageError
from ...utils.io import open_regular, replacing
from ..index.opening import locked, places_of
from .convert import TrainCounts, convert
from .converted_file import FORMAT, ConversionSummary

logger = logging.getLogger(__name__)


def converted(json_file: str, image_root: str, train: TrainCounts | None) -> tuple[str, ConversionSummary]:
    """
    Convert an annotation file to LVIS format, unless an up-to-date converted file exists.

    The converted file is next to the annotation file, or in the user's cache folder if that folder isn't writable.

    Args:
        json_file: path of the annotation file in COCO or LVIS format.
        image_root: the folder of images.
        train: as for :func:`.convert.convert`.

    Returns:
        the path of the converted file, and its summary.

    Raises:
        InputError: if the annotation file can't be read or is invalid.
        StorageError: if the converted file can't be written.
    """
    json_file = os.path.abspath(json_file)
    stamp = _stamp(json_file)
    made_with = [FORMAT, os.path.abspath(image_root), train and train.image_count]
    digest = hashlib.sha256(json.dumps(made_with).encode()).hexdigest()
    ending = f".lvis-{digest[:8]}.json"
    places = places_of(json_file, ending)
    for place in places:
        if found := _fresh(place, stamp):
            return place, found
    problems = []
    for place in places:
        try:
            return place, _make(json_file, image_root, train, stamp, place)
        except (OSError, portalocker.LockException) as error:
            problems.append(f"{place} ({error})")
    raise StorageError(
        f"The conversion of {json_file} to LVIS format can't be written: {'; '.join(problems)}. Free disk space, or "
        "make one of the folders writable."
    )


def _make(
    json_file: str, image_root: str, train: TrainCounts | None, stamp: dict[str, int], place: str
) -> ConversionSummary:
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with locked(place):  # another process may have converted it in the meantime
        if found := _fresh(place, stamp):
            return found
        with replacing(place) as file:
            summary = convert(json_file, image_root, file, train, stamp)
            if _stamp(json_file) != stamp:
                raise InputError(f"Annotations {json_file} changed while they were read; start again.")
    logger.info("Converted %s to LVIS format: %s", json_file, place)
    if summary.num_crowds:
        logger.info(
            "%s of %s annotations are crowd regions: detections of their category in these images aren't counted as "
            "wrong.",
            f"{summary.num_crowds:,}",
            f"{summary.report.num_annotations:,}",
        )
    if summary.num_ignored:
        logger.info(
            "%s of %s annotations have 'ignore' 1: they are left out of training, counts and evaluation.",
            f"{summary.num_ignored:,}",
            f"{summary.report.num_annotations:,}",
        )
    return summary


def _fresh(place: str, stamp: dict[str, int]) -> ConversionSummary | None:
    with contextlib.suppress(OSError, ValueError):
        summary = ConversionSummary.read(place)
        if summary.source == stamp and summary.images_found:
            return summary
    return None


def _stamp(json_file: str) -> dict[str, int]:
    try:
        status = os.stat(json_file)
        with open_regular(json_file):
            return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    except OSError as error:
        raise InputError(f"Annotations {json_file} can't be read: {error.strerror}.") from error
