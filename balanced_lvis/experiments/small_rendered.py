"""Overrides for checks that take seconds: a small rendered dataset and a small model. Their results mean nothing."""

from __future__ import annotations

# Overrides of a config of the rendered dataset, without DATASETS.RENDERED.ROOT, MODEL.DEVICE, SOLVER.MAX_ITER and
# OUTPUT_DIR. The same for all checks, so that the checks of one suite share one dataset.
SMALL_RENDERED: dict[str, object] = {
    "DATASETS.RENDERED.NUM_CLASSES": 12,
    "DATASETS.RENDERED.TRAIN_IMAGES": 24,
    "DATASETS.RENDERED.VAL_IMAGES": 12,
    "DATASETS.RENDERED.TEST_IMAGES": 4,
    "DATASETS.RENDERED.IMAGE_SIZE": (96, 96),
    "DATASETS.RENDERED.OBJECTS_PER_IMAGE": 3,
    "DATASETS.RENDERED.OBJECT_SCALE": (0.16, 0.42),
    "MODEL.ROI_HEADS.NUM_CLASSES": 12,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.WARMUP_ITERS": 1,
}


def override_words(pairs: dict[str, object]) -> list[str]:
    """The words ``KEY VALUE KEY VALUE ...`` of a mapping."""
    return [str(word) for pair in pairs.items() for word in pair]
