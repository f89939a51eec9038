"""
Analysis of detections by the rules of LVIS: AP-fixed, error types, confusion, calibration, uncertainty.

::

    from balanced_lvis.analysis import analyze_results

    analysis = analyze_results("output/r50_balanced_sigmoid", "lvis_v1_val.json")
    print(analysis.tasks["segm"].fixed.metrics["AP"])
    analysis.save("analysis.json")

A detection counts only if the presence of its category in the image is known, and a false positive of a category that
is not annotated exhaustively is ignored.
"""

from __future__ import annotations

import os

from ..evaluation.annotation_loader import load_annotations
from ..evaluation.detection_store import Detections
from ..utils.user_paths import path_of
from .analyze import Matches, Options, analyze_detections
from .bootstrap import paired_difference
from .compare import compare_results
from .export import thresholds_of, write_files
from .model import Analysis, Comparison
from .sources import check_results, opened
from .summary import comparison_text, summary

__all__ = [
    "Analysis",
    "Comparison",
    "Matches",
    "Options",
    "analyze_detections",
    "analyze_results",
    "compare_results",
    "comparison_text",
    "paired_difference",
    "summary",
    "thresholds_of",
    "write_files",
]


def analyze_results(
    results: str | os.PathLike | Detections,
    annotations: str | os.PathLike,
    options: Options | None = None,
    output: str | os.PathLike | None = None,
) -> Analysis:
    """
    Analyse detections of boxes, and of masks if there are any.

    Args:
        results: a results file in LVIS format (JSON or zip), a folder of stored detections, the folder of a run, or
            stored detections.
        annotations: path of the annotation file, in LVIS format.
        options: see :class:`Options`.
        output: folder for the files of the analysis; None to write none.

    Raises:
        InputError: if the results or the annotations can't be read, or as :func:`analyze_detections`.
    """
    check_results(results)
    path = path_of(annotations, "annotations")
    lvis_gt = load_annotations(path)
    with opened(results, path, lvis_gt) as found:
        analysis, matches = analyze_detections(lvis_gt, found.detections, found.tasks, options, found.path, path)
        if output is not None:
            write_files(analysis, matches, output)
    return analysis
