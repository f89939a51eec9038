"""Where a converted file is, and whether it is still its source's."""

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
from .convert import convert
from .summary import FORMAT, Summary, TrainCounts

logger = logging.getLogger(__name__)


def converted(json_file: str, image_root: str, train: TrainCounts | None) -> tuple[str, Summary]:
    """
    The converted file of an annotation file, made first if need be: beside it, or in the user's cache where that
    folder can't be written to.

    Args:
        json_file: in COCO or LVIS format.
        image_root: the folder of images.
        train: as of :func:`.convert.convert`.

    Returns:
        its path and summary.

    Raises:
        InputError: if the source can't be read or relied on.
        StorageError: if the file can't be written anywhere.
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
        f"{json_file} is converted to LVIS format, but that can't be written: {'; '.join(problems)}. Make "
        "room, or make one of the folders writable."
    )


def _make(json_file: str, image_root: str, train: TrainCounts | None, stamp: dict[str, int], place: str) -> Summary:
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with locked(place):  # another process may have made it while this one waited
        if found := _fresh(place, stamp):
            return found
        with replacing(place) as file:
            summary = convert(json_file, image_root, file, train, stamp)
            if _stamp(json_file) != stamp:
                raise InputError(f"Annotations {json_file} changed while they were read; start again.")
    logger.info("Converted %s to LVIS format: %s", json_file, place)
    if summary.num_crowds:
        logger.info(
            "%s of %s annotations are crowd regions: what is found of their category in these images is not an error.",
            f"{summary.num_crowds:,}",
            f"{summary.report.num_annotations:,}",
        )
    if summary.num_ignored:
        logger.info(
            "%s of %s annotations have 'ignore' 1: they are not trained on, not counted, and need not be found.",
            f"{summary.num_ignored:,}",
            f"{summary.report.num_annotations:,}",
        )
    return summary


def _fresh(place: str, stamp: dict[str, int]) -> Summary | None:
    with contextlib.suppress(OSError, ValueError):
        summary = Summary.read(place)
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
