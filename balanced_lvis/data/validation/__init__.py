"""
Checks of annotation files and their images.

    report = validate_annotations("mine.json", "images")       # COCO or LVIS format, of any size
    if not report.ok:
        print(report)                                            # or report.raise_errors(), an InputError

:func:`validate_annotations` parses the file and writes nothing. The checks before a training run are in
:mod:`balanced_lvis.data.preflight`, which keeps their results. :func:`missing_images` looks for image files, one folder
at a time.
"""

from ..images.image_paths import image_path, missing_images, path_problem
from .annotation_file import validate_annotations
from .validation_report import KINDS, Problem, Report

__all__ = [
    "KINDS",
    "Problem",
    "Report",
    "image_path",
    "missing_images",
    "path_problem",
    "validate_annotations",
]
