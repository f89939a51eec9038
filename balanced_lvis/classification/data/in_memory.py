"""Decoding of all images before training, so that none is decoded twice, and broken ones are found at the start."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from tqdm import tqdm

from .image_set import ImageSet

MOST_BYTES = 1 << 30  # of all images in memory, which every process of an experiment holds
_MOST_THREADS = 8  # Pillow decodes and resizes without Python's lock
_AT_A_TIME = 16  # images of a thread

logger = logging.getLogger(__name__)


def in_memory(*sets: ImageSet) -> tuple[ImageSet, ...]:
    """
    The same images, decoded if they are read from files and all of them together take at most :data:`MOST_BYTES`.

    Args:
        *sets: training and test set.

    Raises:
        InputError: if an image can't be decoded.
    """
    of_files = [images for images in sets if len(images) and not isinstance(images.images, np.ndarray)]
    needed = sum(len(images) * images.images[0].nbytes for images in of_files)
    if needed > MOST_BYTES:
        logger.info(
            "%d images are decoded at each use, as they would take %.1f GiB of memory; training images are decoded in "
            "parallel by DATALOADER.NUM_WORKERS processes.", sum(map(len, of_files)), needed / 2**30,
        )  # fmt: skip
        return sets
    return tuple(_decoded(images) if images in of_files else images for images in sets)


def _decoded(images: ImageSet) -> ImageSet:
    source, total = images.images, len(images)
    decoded = np.empty((total, *source[0].shape), np.uint8)

    def decode(start: int) -> int:
        block = range(start, min(start + _AT_A_TIME, total))
        for index in block:
            decoded[index] = source[index]
        return len(block)

    bar = tqdm(total=total, desc="Decoding images", unit=" images", disable=None)
    # catch_warnings of one thread undoes that of another. What they leave is undone here, after the last one.
    with bar, warnings.catch_warnings(), ThreadPoolExecutor(min(_MOST_THREADS, torch.get_num_threads())) as threads:
        warnings.simplefilter("ignore")
        for done in threads.map(decode, range(0, total, _AT_A_TIME)):
            bar.update(done)
    return dataclasses.replace(images, images=decoded)
