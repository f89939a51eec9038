"""
Benchmarks: each suite compares balanced_lvis with the implementation that it replaces, on the same input in one run.

A suite is a function that takes :class:`Options` and returns rows of :func:`benchmarks.measure.row`.
"""

from balanced_lvis import _detectron2

_detectron2.require()

from . import analysis, boxes, growth, lvis_evaluation, mapping, mask_encoding, masks, models, startup  # noqa: E402
from . import submission_validation as submission  # noqa: E402
from .measure import Options, machine  # noqa: E402
from .table import table  # noqa: E402

SUITES = {
    "boxes": boxes.boxes,
    "masks": masks.masks,
    "rle": mask_encoding.rle,
    "evaluate": lvis_evaluation.evaluate,
    "train": models.train,
    "stage2": models.stage_2,
    "inference": models.inference,
    "startup": startup.startup,
    "mapper": mapping.mapper,
    "submission": submission.submission,
    "growth": growth.growth,
    "val": lvis_evaluation.val,
    "floor": lvis_evaluation.floor,
    "analysis": analysis.analysis,
}
# Suites with a comparison at every size, and without files of others. At the sizes of the others, the stock
# implementation would need 20 GB.
ALL = tuple(name for name in SUITES if name not in ("submission", "val", "floor", "analysis", "mapper"))

__all__ = ["ALL", "SUITES", "Options", "machine", "table"]
