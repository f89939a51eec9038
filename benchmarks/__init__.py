"""
Benchmarks: each suite measures balanced_lvis beside what it is an alternative to, on the same input in one run.

A suite is a function that takes :class:`Options` and returns rows, as :func:`benchmarks.measure.row` makes them.
"""

from balanced_lvis import _detectron2

_detectron2.require()

from . import boxes, growth, lvis_evaluation, mask_encoding, masks, models, startup, submission_validation  # noqa: E402
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
    "submission": submission_validation.submission,
    "growth": growth.growth,
    "val": lvis_evaluation.val,
    "floor": lvis_evaluation.floor,
}
# Those that have something to compare ours with, which at the size of two others would need 20 GB.
ALL = tuple(name for name in SUITES if name not in ("submission", "val", "floor"))

__all__ = ["ALL", "SUITES", "Options", "machine", "table"]
