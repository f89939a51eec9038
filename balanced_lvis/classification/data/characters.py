"""Rendered characters: a balanced dataset that is made on first use, from the outlines of the rendered dataset."""

from __future__ import annotations

import logging
import os
import zipfile
import zlib
from pathlib import Path

import matplotlib
import numpy as np
from tqdm import tqdm

from ...data.rendered.glyphs import Glyph, alphabet, outline
from ...data.rendered.paint import coverage
from ...utils.errors import InputError
from ...utils.io import open_regular, replacing
from ...utils.random_state import seed_of
from ...utils.storage import clear_output_errors
from .image_set import Dataset, ImageSet, register_dataset

SIZE = 32  # pixels
_VERSION = 1  # of the drawing; part of the name of the cached file
_SPLITS = ("train", "test")
_MOST_PER_CLASS = 100_000

logger = logging.getLogger(__name__)


@register_dataset("characters")
class Characters(Dataset):
    """
    Images of 32 x 32 pixels, each of one character: in any of its typefaces, rotated, sheared, scaled and shifted, in a
    dark colour on a light background with waves and noise.

    Image i of a class is the same for any number of images per class.

    Args:
        num_classes: K, the first characters of :func:`balanced_lvis.data.rendered.alphabet`.
        train_per_class: number of training images of each class.
        test_per_class: number of test images of each class.
        seed: seed of the images.
        cache: folder of the rendered images; empty to render them again in every process.

    Raises:
        InputError: if a number is out of range.
    """

    def __init__(
        self,
        *,
        num_classes: int = 58,
        train_per_class: int = 300,
        test_per_class: int = 50,
        seed: int = 0,
        cache: str = "datasets",
    ):
        for name, value in (("TRAIN_PER_CLASS", train_per_class), ("TEST_PER_CLASS", test_per_class)):
            if not 1 <= value <= _MOST_PER_CLASS:
                raise InputError(f"DATASET.CHARACTERS.{name} is {value}; choose 1 to {_MOST_PER_CLASS}.")
        if seed < 0:
            raise InputError(f"DATASET.CHARACTERS.SEED is {seed}; it must be 0 or more.")
        self._glyphs = alphabet(num_classes)
        self._per_class = {"train": train_per_class, "test": test_per_class}
        self._seed, self._cache = seed, cache

    def train(self):
        return self._split("train")

    def test(self):
        return self._split("test")

    def _split(self, split: str) -> ImageSet:
        images = self._read(split)
        if images is None:
            images = self._render(split)
            self._write(split, images)
        labels = np.repeat(np.arange(len(self._glyphs)), self._per_class[split])
        return ImageSet(images, labels.astype(np.int64), tuple(glyph.name for glyph in self._glyphs))

    def _render(self, split: str) -> np.ndarray:
        per_class = self._per_class[split]
        images = np.empty((len(self._glyphs) * per_class, SIZE, SIZE, 3), np.uint8)
        numbers = tqdm(range(len(images)), desc=f"Rendering characters, {split}", unit=" images", disable=None)
        for number in numbers:
            label, index = divmod(number, per_class)
            rng = np.random.default_rng(seed_of(self._seed, _SPLITS.index(split), label, index))
            images[number] = draw(self._glyphs[label], rng)
        return images

    def _path(self, split: str) -> Path:
        size = f"{len(self._glyphs)}x{self._per_class[split]}"
        # Matplotlib has the typefaces, whose outlines may change with its version.
        version = f"v{_VERSION}_matplotlib_{matplotlib.__version__}"
        return Path(self._cache, f"characters_{version}_{size}_{split}_seed_{self._seed}.npz")

    def _read(self, split: str) -> np.ndarray | None:
        """The cached images; None if there are none, or the file is damaged, which is logged."""
        path = self._path(split)
        if not self._cache or not path.is_file():
            return None
        try:
            with open_regular(path) as file, np.load(file, allow_pickle=False) as content:
                images = content["images"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            logger.warning("%s is damaged (%s); its images are rendered again", path, error)
            return None
        expected = (len(self._glyphs) * self._per_class[split], SIZE, SIZE, 3)
        if images.dtype != np.uint8 or images.shape != expected:
            logger.warning("%s has an array of another shape or type; its images are rendered again", path)
            return None
        return images

    def _write(self, split: str, images: np.ndarray) -> None:
        if not self._cache:
            return
        # Several processes may render the same images at the same time: each writes a file of its own.
        path = self._path(split)
        own = path.with_suffix(f".{os.getpid()}")
        with clear_output_errors(path):
            with replacing(own, "wb") as file:
                np.savez(file, images=images)
            os.replace(own, path)


def draw(glyph: Glyph, rng: np.random.Generator) -> np.ndarray:
    """
    One image of a character.

    Returns:
        (32, 32, 3) uint8.
    """
    canvas = _background(rng)
    cover = coverage(_contours(glyph, rng), (slice(0, SIZE), slice(0, SIZE)))
    canvas += cover[..., None] * (rng.uniform(0, 0.45, 3) - canvas)
    canvas += rng.normal(0, rng.uniform(0.01, 0.06), canvas.shape)
    return (canvas.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _contours(glyph: Glyph, rng: np.random.Generator) -> list[np.ndarray]:
    shape = outline(glyph.character, str(rng.choice(glyph.faces)))
    assert shape is not None  # of a face that has the character
    angle = rng.normal(0, 0.12)
    cos, sin = np.cos(angle), np.sin(angle)
    width, height = np.exp(rng.normal(0, 0.08, 2)) * SIZE * rng.uniform(0.55, 0.85)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[width, rng.normal(0, 0.1) * height], [0, height]])
    shift = SIZE / 2 + rng.uniform(-0.08, 0.08, 2) * SIZE
    return [points @ matrix.T + shift for points, _ in shape.contours]


def _background(rng: np.random.Generator) -> np.ndarray:
    """(32, 32, 3), 0 to 1: two light colours that change into each other in a random direction, in waves or once."""
    first, second = rng.uniform(0.6, 1, 3), rng.uniform(-0.2, 0.2, 3)
    angle, periods = rng.uniform(0, 2 * np.pi), rng.choice((0.4, 1.5, 4.0)) * rng.uniform(0.6, 1.4)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (periods * (np.cos(angle) * x + np.sin(angle) * y) + rng.uniform()))
    return (first + wave[..., None] * second).clip(0, 1)
