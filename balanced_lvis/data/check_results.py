"""Results of the last check of an LVIS file, stored in its index."""

from __future__ import annotations

import dataclasses
import logging
import os

from .index import find_index, open_index
from .index.array_file import ArrayFile
from .validation import Report
from .validation.annotation_file import check_records

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CheckResults:
    """
    Attributes:
        report: all problems of the file.
        image_names: folder/name of each image that has a usable path.
        indexed: whether there is an index.
    """

    report: Report
    image_names: list[str]
    indexed: bool


def check_results_of(json_file: str | os.PathLike, write: bool = True) -> CheckResults:
    """
    Read the results of the last check from the index of an LVIS file. Without an index, the file is checked.

    Args:
        json_file: path of the annotation file.
        write: build the index if there is none. False: nothing is written.

    Raises:
        InputError: if the file can't be read, or (with ``write``) can't be used.
    """
    json_file = os.fspath(json_file)
    index = open_index(json_file) if write else find_index(json_file)
    if index is not None:
        try:
            report = dataclasses.replace(Report.from_dict(index.header["report"]), json_file=json_file)
            return CheckResults(report, _names(index), indexed=True)
        except (KeyError, TypeError):
            logger.info(
                "The index of %s has a report of another version of balanced_lvis; the file is checked again", json_file
            )
    report, checker = check_records(json_file, layout="lvis", progress=True)
    return CheckResults(report, [path for path in checker.paths if path], indexed=False)


def _names(index: ArrayFile) -> list[str]:
    data, first = index.arrays["name"].tobytes(), index.arrays["first_name"].tolist()
    return [data[start:end].decode("utf-8", "surrogatepass") for start, end in zip(first, first[1:])]
