"""
Writing and validation of submissions to the LVIS server.

A submission is a JSON list of detections, {"image_id", "category_id" (id in the dataset, from 1), "score"} with
"segmentation" {"size": [height, width], "counts": compressed RLE} in a mask file, or "bbox" [x, y, width, height] in a
box file. A mask file has no "bbox": the LVIS API would use width x height as the area of the mask.
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
