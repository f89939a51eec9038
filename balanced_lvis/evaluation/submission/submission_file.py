"""A submission's file checked to its end, whatever it holds, in bounded memory."""

from __future__ import annotations

import os

from ...utils.errors import InputError
from .image_list import ImageList
from .problems import Report
from .results_checker import Checker
from .results_reader import BROKEN, batches_of, why_not_json


def validate_submission(path: str | os.PathLike, images: ImageList, progress: bool = False) -> Report:
    """
    Check a submission as strictly as the server could.

    Args:
        path: of a JSON file, or a zip archive with one.
        images: what the data set has.
        progress: show how far it is, on a terminal.

    Returns:
        what the file holds and what is wrong, kind by kind. One that can't be parsed to its end has the problem
        "not_json" beside those of its beginning.

    Raises:
        InputError: if the file isn't there or can't be opened.
    """
    checker = Checker(images)
    try:
        for batch in batches_of(path, progress):
            checker.add(batch)
    except InputError:
        raise
    except BROKEN as error:
        checker.findings.add("not_json", why_not_json(error))
    return checker.finish(os.fspath(path))
