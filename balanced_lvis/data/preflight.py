"""Are annotations sound and images there? Asked once, before processes start and hours are spent."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..errors import InputError
from ..findings import SHOWN
from .annotations import check_annotations
from .records import load_records, lvis_source
from .validation import missing_images
from .validation.report import EVALUATION_NEEDS

logger = logging.getLogger(__name__)

_EVALUATION_NEEDS_ALL = (
    "Get them: figures for a part of the images can't be compared with others', so --allow-missing is for training "
    "only. DATASETS.TEST '()' trains without evaluating."
)


def preflight(
    train: Sequence[str], test: Sequence[str] = (), *, allow_missing: bool = False, filter_empty: bool = True
) -> None:
    """
    Check registered data sets that are about to be used; makes the indexes of LVIS files unless they are there.

    An LVIS file is parsed with the making of its index, which keeps what was found; later starts read it there. Images
    are looked for at every start, a folder at a time.

    Args:
        train: names of the data sets to train on.
        test: of those to evaluate on.
        allow_missing: a training image that is not on the disk is no error, as :func:`leave_out_missing` will leave it
            out. One of evaluation is: a figure for part of the images looks like that for all of them, and isn't.
        filter_empty: training leaves out images without annotations, which therefore need not be there.

    Raises:
        InputError: for annotations that can't be relied on, and for missing images: how many, and the first ones.
    """
    for name in dict.fromkeys((*train, *test)):
        _check_annotations(name, evaluated=name in test)
    for name in dict.fromkeys(train):
        _check_images(name, filter_empty, allow_missing, "Get them, or train without them: --allow-missing.")
    for name in dict.fromkeys(test):
        _check_images(name, False, False, _EVALUATION_NEEDS_ALL)


def leave_out_missing(records, together: bool = True):
    """
    Images without those that are not on the disk, of which a warning is logged.

    All processes of a job leave out what any of them lacks, so that they go on sharing one stream of images.

    Args:
        records: from :func:`balanced_lvis.data.records.load_records`, or a list.
        together: False: this process alone, without a warning; what the others lack is not known.

    Raises:
        InputError: if none is left.
    """
    missing = _missing(records)
    if together:
        missing = sorted(set().union(*comm.all_gather(missing)))
    if not missing:
        return records
    paths = _paths(records)
    if len(missing) == len(paths):
        raise InputError(f"None of the {len(paths):,} training images is on the disk: {_first(paths)}.")
    if together:
        logger.warning(
            "%s of %s training images are not on the disk and left out: %s",
            f"{len(missing):,}",
            f"{len(paths):,}",
            _first([paths[i] for i in missing]),
        )
    if hasattr(records, "leaving_out"):
        return records.leaving_out(missing)
    gone = set(missing)
    return [record for i, record in enumerate(records) if i not in gone]


def _check_annotations(name: str, evaluated: bool) -> None:
    source = lvis_source(name)
    if source is None:  # read by someone else's loader, which has its own ideas of what is right
        return
    report = check_annotations(PathManager.get_local_path(source.json_file)).report
    report.raise_errors(beside=EVALUATION_NEEDS if evaluated else ())
    for problem in report.warnings:
        logger.warning("%s: %s", name, str(problem).split(": ", 1)[1])


def _check_images(name: str, filter_empty: bool, allowed: bool, remedy: str) -> None:
    records = load_records(name, filter_empty=filter_empty)
    missing = _missing(records)
    if not missing:
        return
    paths = _paths(records)
    if allowed and len(missing) < len(paths):
        return
    first = _first([paths[i] for i in missing])
    if len(missing) == len(paths):
        remedy = "Is the folder of images the right one?"
    where = " tools/prepare_lvis.py --check says where to get LVIS-1.0's." if name.startswith("lvis_v1") else ""
    raise InputError(
        f"{len(missing):,} of {len(paths):,} images of {name} are not on the disk: {first}. {remedy}{where}"
    )


def _missing(records) -> list[int]:
    paths = _paths(records)
    local = [i for i, path in enumerate(paths) if "://" not in path]  # others are fetched when they are read
    return [local[i] for i in missing_images([paths[i] for i in local])]


def _paths(records) -> list[str]:
    if hasattr(records, "file_names"):
        return records.file_names()
    return [record["file_name"] for record in records]


def _first(paths: Iterable[str]) -> str:
    paths = list(paths)
    return ", ".join(paths[:SHOWN]) + (", ..." if len(paths) > SHOWN else "")
