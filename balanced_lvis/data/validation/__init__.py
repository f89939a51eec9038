"""
What is wrong with an annotation file and its images, found before they are used.

    report = validate_annotations("mine.json", "images")       # COCO or LVIS format, of any size
    if not report.ok:
        print(report)                                            # or report.raise_errors(), an InputError

:func:`validate_annotations` parses the file, whatever its size, and writes nothing. For every start of a training
there is :mod:`balanced_lvis.data.preflight`, which keeps what was found. :func:`missing_images` looks for files, a
folder at a time.
"""

from .annotation_file import validate_annotations
from .image_checks import missing_images
from .safe_paths import image_path, path_problem
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
