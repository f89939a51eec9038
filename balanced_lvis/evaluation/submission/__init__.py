"""
Submissions to the LVIS server: written, and checked as strictly as the server could.

A submission is a JSON list of detections, {"image_id", "category_id" (the data set's own, from 1 on), "score"} with
"segmentation" {"size": [height, width], "counts": compressed RLE} in a mask file or "bbox" [x, y, width, height] in a
box file. A mask file has no "bbox": the LVIS API would take width x height for the area of a mask.
"""

from .image_list import ImageList, annotation_file_of
from .predictions import export_predictions, read_predictions
from .problems import KINDS, Problem, Report
from .results_checker import validate_submission
from .results_writer import Written, write_submission

__all__ = [
    "KINDS",
    "ImageList",
    "Problem",
    "Report",
    "Written",
    "annotation_file_of",
    "export_predictions",
    "read_predictions",
    "validate_submission",
    "write_submission",
]
