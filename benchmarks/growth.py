"""
Growth of costs with classes, detections and images, for Detectron2 or the LVIS API and for balanced_lvis.

The other suites have the size of LVIS. Here, one number varies at a time.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator

from . import boxes, lvis_evaluation, mask_encoding, masks
from .measure import Options, row, time_alternating

CLASSES = (80, 400, 1203, 2406)
CANDIDATES_PER_CLASS = 665  # with 1,000 proposals: 800,000 for 1,203 classes
DETECTIONS = (30, 100, 300, 1000)
IMAGES = (50, 100, 200)


def growth(options: Options) -> list[dict]:
    """Rows with one varying number each; memory is not measured."""
    return [*_by_classes(options), *_by_detections(options), *_by_images(options)]


def _by_classes(options: Options) -> Iterator[dict]:
    for classes in CLASSES:
        work = boxes.Work(CANDIDATES_PER_CLASS * classes, classes=classes)
        stock, native = boxes.contenders(work, options.device)
        same = boxes.identical(stock(), native())
        yield _row(options, f"boxes: {classes} classes, {work.candidates} candidates", stock, native, same)
    for classes in CLASSES:
        job = {"rois": masks.TRAIN_ROIS, "classes": classes, "training": True, "device": options.device}
        stock, native = (masks.step_of({**job, "contender": contender}) for contender in masks.CONTENDERS)
        same = masks.agree(stock(), native())
        yield _row(options, f"masks: {classes} classes, 128 RoIs", stock, native, same)


def _by_detections(options: Options) -> Iterator[dict]:
    for number in DETECTIONS:
        found = (*mask_encoding.lvis_like_detections(number, 640, 853), 640, 853)
        stock, native = (lambda call=call, found=found: call(*found) for call in mask_encoding.CONTENDERS.values())
        same = stock() == native()
        cpu = dataclasses.replace(options, device="cpu")
        yield _row(cpu, f"rle: {number} detections, 640x853", stock, native, same)


def _by_images(options: Options) -> Iterator[dict]:
    for images in IMAGES:
        with tempfile.TemporaryDirectory() as folder:
            for found in lvis_evaluation.rows_of(folder, images, options.rounds):
                yield {**found, "suite": "growth", "size": f"evaluate: {found['size']}"}


def _row(options: Options, size: str, stock, native, same: bool) -> dict:
    seconds = time_alternating(stock, native, options.rounds, options.device)
    return row("growth", size, *seconds, (None, None), same)
