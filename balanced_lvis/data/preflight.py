"""All checks of annotations and images before a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.utils.file_io import PathManager

from ..priors import check_crowds
from ..utils.errors import InputError
from ..utils.findings import SHOWN, Problem
from ..utils.text import first_of
from .check_results import CheckResults, check_results_of
from .custom.converted_file import ConversionSummary
from .dataset_records import file_names, load_records, missing_records
from .images.image_paths import find_images, other_spellings
from .index import MODE
from .registered_files import converted_file, lvis_source
from .validation import Report
from .validation.validation_report import EVALUATION_NEEDS, FILLED_IN

logger = logging.getLogger(__name__)

_EVALUATION_NEEDS_ALL = (
    "Add them: metrics on a subset of the images can't be compared with published ones, so --allow-missing is for "
    "training only. Set DATASETS.TEST '()' to train without evaluation."
)


def preflight(
    train: Sequence[str], test: Sequence[str] = (), *, allow_missing: bool = False, filter_empty: bool = True
) -> None:
    """
    Check the annotations and images of registered datasets, and build missing indexes of LVIS files.

    An LVIS file is checked while its index is built. The index keeps the results, so that later starts don't parse the
    file. Images are checked at every start, one folder at a time.

    Args:
        train: names of the datasets for training.
        test: names of the datasets for evaluation.
        allow_missing: accept missing training images, which :func:`.training_set.leave_out_missing` leaves out. Missing
            images of evaluation are always an error, because metrics on a subset look like those on all images.
        filter_empty: training leaves out images without annotations, so that they may be missing.

    Raises:
        InputError: if annotations are invalid, or images are missing: how many, and the first ones.
    """
    loaded = {name: _check_annotations(name, evaluated=name in test) for name in dict.fromkeys((*train, *test))}
    for name in dict.fromkeys(train):
        records = _training_records(name, loaded[name], filter_empty)
        _check_images(name, records, allow_missing, "Add them, or pass --allow-missing to train without them.")
    for name in dict.fromkeys(test):
        _check_images(name, loaded[name] or load_records(name, filter_empty=False), False, _EVALUATION_NEEDS_ALL)


def _training_records(name: str, loaded: list[dict] | None, filter_empty: bool):
    if loaded is None:
        return load_records(name, filter_empty=filter_empty)
    return filter_images_with_only_crowd_annotations(loaded) if filter_empty else loaded


def _check_annotations(name: str, evaluated: bool) -> list[dict] | None:
    """Returns the records of a dataset that had to be loaded for the check."""
    source, converted = lvis_source(name), converted_file(name)
    if converted and (converted.is_loaded or evaluated):
        # Conversion refuses errors and fills in what is missing.
        warnings = [problem for problem in _report_of(converted.path).warnings if problem.kind not in FILLED_IN]
        if not converted.is_loaded:  # the dataset's own loader doesn't find the other spellings
            warnings = [problem for problem in warnings if problem.kind != "path_respelled"]
    elif source:
        checked = check_results_of(PathManager.get_local_path(source.json_file))
        checked.report.raise_errors(also=EVALUATION_NEEDS if evaluated else ())
        _check_ignored(name, checked)
        if evaluated:
            _check_groups(checked.report)
        warnings = checked.report.warnings
    else:  # a third-party loader, which decides what is valid
        return _check_crowds(name)
    _log(name, warnings)
    return None


def _log(name: str, warnings: Sequence[Problem]) -> None:
    for problem in warnings:
        logger.warning("%s: %s", name, problem.description)


def _check_crowds(name: str) -> list[dict]:
    records = load_records(name, filter_empty=False)
    try:
        check_crowds(records)
    except InputError as error:
        raise InputError(f"Dataset {name}: {error}") from error
    return records


def _report_of(converted: str) -> Report:
    """The report on the user's own file, with that file's ids."""
    try:
        return ConversionSummary.read(converted).report
    except (OSError, ValueError) as error:
        raise InputError(
            f"The converted annotations {converted} can no longer be read ({error}); start again."
        ) from error


def _check_ignored(name: str, checked: CheckResults) -> None:
    if checked.report.num_ignored and not checked.indexed:
        raise InputError(
            f"{checked.report.num_ignored:,} annotations of {name} have 'ignore' 1, but Detectron2's own loader trains "
            f"on them, and there is no index to leave them out: unset {MODE}, make the file's folder writable, or name "
            "the file under DATASETS.CUSTOM."
        )


def _check_groups(report: Report) -> None:
    if report.num_annotations and report.groups_problem:
        raise InputError(f"Annotations {report.json_file} can't be evaluated: {report.groups_problem}")


def _check_images(name: str, records, allow_missing: bool, remedy: str) -> None:
    missing = missing_records(records)
    if not missing:
        return
    paths = file_names(records)
    if allow_missing and len(missing) < len(paths):
        return
    first = first_of([paths[i] for i in missing], SHOWN)
    if len(missing) == len(paths):
        remedy = "Check the path of the image folder."
    remedy = _spelling_remedy(name, [paths[i] for i in missing]) or remedy
    where = (
        " `balanced-lvis prepare-lvis --check` lists where to get those of LVIS-1.0."
        if name.startswith("lvis_v1")
        else ""
    )
    raise InputError(f"{len(missing):,} of {len(paths):,} images of {name} are not on disk: {first}. {remedy}{where}")


def _spelling_remedy(name: str, missing: list[str]) -> str:
    """The remedy where files may exist under another spelling of their paths; "" where there is no such path."""
    converted = converted_file(name)
    loaded = converted.path if converted and converted.is_loaded else None
    spelled = [path for path in missing if other_spellings(os.path.basename(path))]
    if not spelled:
        if loaded and _report_of(loaded).count("path_respelled"):
            return f"If images were renamed after {loaded} was written, delete it and start again; otherwise add them."
        return ""
    folder, base = os.path.split(spelled[0])
    (found,) = find_images(folder, [base])
    if found is None:
        other = other_spellings(base)[-1]
        return f"{os.path.join(folder, other)} doesn't exist either: correct the paths, or the image folder."
    if loaded:  # the file has appeared since the conversion
        return f"{os.path.join(folder, found)} exists now: delete {loaded} and start again."
    return f"{os.path.join(folder, found)} exists: correct the paths, or name the file under DATASETS.CUSTOM."
