"""Are annotations sound and images there? Asked once, before processes start and hours are spent."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..priors import check_crowds
from ..utils.errors import InputError
from ..utils.findings import SHOWN
from ..utils.text import first_of
from .check_results import CheckedAnnotations, check_annotations
from .custom.summary import Summary
from .dataset_files import CONVERTED_FILE
from .dataset_records import converted_file, load_records, lvis_source
from .index import MODE
from .validation import Report, missing_images
from .validation.image_checks import find_images
from .validation.safe_paths import other_spellings
from .validation.validation_report import EVALUATION_NEEDS, FILLED_IN

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
        records: from :func:`balanced_lvis.data.dataset_records.load_records`, or a list.
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
        raise InputError(f"None of the {len(paths):,} training images is on the disk: {first_of(paths, SHOWN)}.")
    if together:
        logger.warning(
            "%s of %s training images are not on the disk and left out: %s",
            f"{len(missing):,}",
            f"{len(paths):,}",
            first_of([paths[i] for i in missing], SHOWN),
        )
    if hasattr(records, "leaving_out"):
        return records.leaving_out(missing)
    gone = set(missing)
    return [record for i, record in enumerate(records) if i not in gone]


def _check_annotations(name: str, evaluated: bool) -> None:
    source, file = lvis_source(name), converted_file(name)
    if file is None and evaluated:  # of a dataset that is registered in COCO format
        file = MetadataCatalog.get(name).get(CONVERTED_FILE)
    if file is not None:  # errors were refused when it was converted
        known = FILLED_IN if converted_file(name) else (*FILLED_IN, "path_respelled")  # which another loader can't find
        warnings = [problem for problem in _report_of(file).warnings if problem.kind not in known]
    elif source is None:  # read by someone else's loader, which has its own ideas of what is right
        _check_crowds(name)
        return
    else:
        checked = check_annotations(PathManager.get_local_path(source.json_file))
        checked.report.raise_errors(beside=EVALUATION_NEEDS if evaluated else ())
        _check_ignored(name, checked)
        if evaluated:
            _check_groups(checked.report)
        warnings = checked.report.warnings
    for problem in warnings:
        logger.warning("%s: %s", name, problem.description)


def _check_crowds(name: str) -> None:
    try:
        check_crowds(DatasetCatalog.get(name))
    except InputError as error:
        raise InputError(f"Data set {name}: {error}") from error


def _report_of(converted: str) -> Report:
    """On the user's own file, in its own ids."""
    try:
        return Summary.read(converted).report
    except (OSError, ValueError) as error:
        raise InputError(
            f"The converted annotations {converted} can't be read any more ({error}); start again."
        ) from error


def _check_ignored(name: str, checked: CheckedAnnotations) -> None:
    if checked.report.num_ignored and not checked.indexed:
        raise InputError(
            f"{checked.report.num_ignored:,} annotations of {name} have 'ignore' 1, but Detectron2's own loader trains "
            f"on them, and there is no index to leave them out: unset {MODE}, make the file's folder writable, or name "
            "the file under DATASETS.CUSTOM."
        )


def _check_groups(report: Report) -> None:
    if report.num_annotations and report.groups_problem:
        raise InputError(f"Annotations {report.json_file} can't be evaluated: {report.groups_problem}")


def _check_images(name: str, filter_empty: bool, allowed: bool, remedy: str) -> None:
    records = load_records(name, filter_empty=filter_empty)
    missing = _missing(records)
    if not missing:
        return
    paths = _paths(records)
    if allowed and len(missing) < len(paths):
        return
    first = first_of([paths[i] for i in missing], SHOWN)
    if len(missing) == len(paths):
        remedy = "Is the folder of images the right one?"
    remedy = _spelling(name, [paths[i] for i in missing]) or remedy
    where = " tools/prepare_lvis.py --check says where to get LVIS-1.0's." if name.startswith("lvis_v1") else ""
    raise InputError(
        f"{len(missing):,} of {len(paths):,} images of {name} are not on the disk: {first}. {remedy}{where}"
    )


def _spelling(name: str, missing: list[str]) -> str:
    """What is to be said of paths that a file may have in another spelling; "" where there is no such path."""
    converted = converted_file(name)
    spelled = [path for path in missing if other_spellings(os.path.basename(path))]
    if not spelled:
        if converted and _report_of(converted).count("path_respelled"):
            return f"If images were renamed since {converted} was made, delete it, and start again; else get them."
        return ""
    folder, base = os.path.split(spelled[0])
    (found,) = find_images(folder, [base])
    if found is None:
        other = other_spellings(base)[-1]
        return f"There is no {os.path.join(folder, other)} either: correct the paths, or the image folder."
    if converted:  # before it was there
        return f"{os.path.join(folder, found)} is there now: delete {converted}, and start again."
    return f"{os.path.join(folder, found)} is there: correct the paths, or name the file under DATASETS.CUSTOM."


def _missing(records) -> list[int]:
    paths = _paths(records)
    local = [i for i, path in enumerate(paths) if "://" not in path]  # others are fetched when they are read
    return [local[i] for i in missing_images([paths[i] for i in local])]


def _paths(records) -> list[str]:
    if hasattr(records, "file_names"):
        return records.file_names()
    return [record["file_name"] for record in records]
