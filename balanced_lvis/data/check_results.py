"""An LVIS file's report and image names, from its index where there is one."""

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
class CheckedAnnotations:
    """
    Attributes:
        report: what is wrong with the file.
        image_names: folder/name of each of its images, as far as it has one that could be used.
        indexed: whether there is an index.
    """

    report: Report
    image_names: list[str]
    indexed: bool


def check_annotations(json_file: str | os.PathLike, write: bool = True) -> CheckedAnnotations:
    """
    What is in an LVIS file and what is wrong with it. It is parsed the first time; later, the index knows.

    Args:
        json_file: path.
        write: make the index unless it is there; else nothing is written, and a file without an index is parsed.

    Raises:
        InputError: if the file can't be read, or (with ``write``) is of no use.
    """
    json_file = os.fspath(json_file)
    index = open_index(json_file) if write else find_index(json_file)
    if index is not None:
        try:
            report = dataclasses.replace(Report.from_dict(index.header["report"]), json_file=json_file)
            return CheckedAnnotations(report, _names(index), indexed=True)
        except (KeyError, TypeError):
            logger.info("The index of %s is of another version; the file is checked without it", json_file)
    report, checker = check_records(json_file, layout="lvis", progress=True)
    return CheckedAnnotations(report, [path for path in checker.paths if path], indexed=False)


def _names(index: ArrayFile) -> list[str]:
    data, first = index.arrays["name"].tobytes(), index.arrays["first_name"].tolist()
    return [data[start:end].decode("utf-8", "surrogatepass") for start, end in zip(first, first[1:])]
