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

from ..evaluation.detection_store import Detections
from ..evaluation.lvis_api import LVIS
from .analyze import Matches, Options, analyze_detections
from .bootstrap import paired_difference
from .export import thresholds_of, write_files
from .model import Analysis
from .sources import opened
from .summary import summary

__all__ = [
    "Analysis",
    "Matches",
    "Options",
    "analyze_detections",
    "analyze_results",
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
    lvis_gt = LVIS(os.fspath(annotations))
    with opened(results, os.fspath(annotations), lvis_gt) as found:
        analysis, matches = analyze_detections(
            lvis_gt, found.detections, found.tasks, options, found.path, os.fspath(annotations)
        )
        if output is not None:
            write_files(analysis, matches, output)
    return analysis
