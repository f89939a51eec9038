"""Painting of textured backgrounds and anti-aliased areas in contrasting colours."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image

_SUBROWS = 8  # samples per pixel row; along a row, coverage is exact
_CONTRAST = 0.5


def coverage(contours: list[np.ndarray], box: tuple[slice, slice]) -> np.ndarray:
    """
    The share of each pixel inside closed curves, by the non-zero winding rule.

    Pixel (row, column) is the square from (column, row) to (column + 1, row + 1).

    Args:
        contours: float arrays of shape (N, 2), x and y in pixels, the last point repeating the first.
        box: the rows and columns to compute.

    Returns:
        float32 array of the box's shape, 0 to 1.
    """
    rows, columns = box
    height, width = rows.stop - rows.start, columns.stop - columns.start
    start = np.concatenate([c[:-1] for c in contours])
    end = np.concatenate([c[1:] for c in contours])
    at = rows.start + (np.arange(height * _SUBROWS) + 0.5) / _SUBROWS
    row, edge = np.nonzero((start[:, 1] <= at[:, None]) != (end[:, 1] <= at[:, None]))
    (x1, y1), (x2, y2) = start[edge].T, end[edge].T
    x = (x1 + (at[row] - y1) * (x2 - x1) / (y2 - y1) - columns.start).clip(0, width)
    # Along a row, each crossing adds its sign to the winding number, proportionally within its pixel.
    cell = x.astype(np.int64)
    sign = np.sign(y2 - y1)
    index = row * (width + 2) + cell
    change = np.bincount(index, sign * (1 - (x - cell)), len(at) * (width + 2))
    change += np.bincount(index + 1, sign * (x - cell), len(at) * (width + 2))
    winding = np.abs(change.reshape(len(at), width + 2).cumsum(axis=1))[:, :width]
    return winding.clip(0, 1).reshape(height, _SUBROWS, width).mean(axis=1).astype(np.float32)


def paint(canvas: np.ndarray, cover: np.ndarray, colour: np.ndarray, rng: np.random.Generator) -> None:
    """Blend a slightly shaded colour over ``canvas`` (height, width, 3) in place, where ``cover`` is 1."""
    height, width = cover.shape
    slope = rng.uniform(-0.07, 0.07, 2)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    shaded = (colour + (slope[0] * y + slope[1] * x)[..., None]).clip(0, 1)
    canvas += cover[..., None] * (shaded.astype(np.float32) - canvas)


def contrasting_colour(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random RGB colour (0 to 1) that is far from nearly all pixels of ``canvas`` (height, width, 3)."""
    pixels = canvas.reshape(-1, 3)
    pixels = _opponent(pixels[rng.integers(len(pixels), size=96)])
    hsv = rng.uniform((0, 0.1, 0.02), (1, 1, 1), (24, 3))
    colours = np.array([colorsys.hsv_to_rgb(h, s, v**0.6) for h, s, v in hsv])
    distances = np.abs(_opponent(colours)[:, None] - pixels).sum(axis=2)
    scores = np.partition(distances, len(pixels) // 12, axis=1)[:, len(pixels) // 12]
    enough = np.flatnonzero(scores >= _CONTRAST)
    return colours[enough[0] if len(enough) else scores.argmax()]


def background(image_size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """
    A texture of two related colours: smooth noise, a gradient, stripes, checks or spots.

    Returns:
        float32 array of shape (height, width, 3), 0 to 1.
    """
    noise = _smooth_noise(image_size, int(rng.integers(2, 7)), rng)
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))](image_size, noise, rng)
    first = np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.05, 0.6), rng.uniform(0.15, 0.95)))
    second = (first + rng.uniform(-0.22, 0.22) + rng.uniform(-0.1, 0.1, 3)).clip(0, 1)
    canvas = first + pattern[..., None] * (second - first)
    canvas += 0.06 * (_smooth_noise(image_size, int(rng.integers(8, 24)), rng)[..., None] - 0.5)
    return canvas.clip(0, 1).astype(np.float32)


def _opponent(rgb: np.ndarray) -> np.ndarray:
    """Brightness and two colour differences, weighted by their visual contrast."""
    matrix = np.array([[0.9, 0.25, 0.15], [1.5, -0.25, 0.15], [0.3, 0.0, -0.3]])
    return np.asarray(rgb) @ matrix / 1.8


def _smooth_noise(image_size, cells: int, rng) -> np.ndarray:
    """Noise with ``cells`` bumps along the shorter side, 0 to 1, at any resolution."""
    height, width = image_size
    scale = cells / min(image_size)
    grid = rng.uniform(0, 1, (int(height * scale) + 2, int(width * scale) + 2)).astype(np.float32)
    smooth = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth).clip(0, 1)


def _phase(image_size, rng, low: float, high: float) -> np.ndarray:
    """Periods of a wave in a random direction; ``low`` to ``high`` of them along the shorter side."""
    height, width = image_size
    angle, periods = rng.uniform(0, np.pi), rng.uniform(low, high) / min(image_size)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return (np.cos(angle) * x + np.sin(angle) * y) * periods + rng.uniform()


def _clouds(image_size, noise, rng) -> np.ndarray:
    return 0.7 * noise + 0.3 * _smooth_noise(image_size, 12, rng)


def _gradient(image_size, noise, rng) -> np.ndarray:
    phase = _phase(image_size, rng, 0.5, 0.9)
    return (phase - phase.min()) / np.ptp(phase) * 0.8 + 0.2 * noise


def _stripes(image_size, noise, rng) -> np.ndarray:
    wave = np.sin(2 * np.pi * (_phase(image_size, rng, 3, 12) + rng.uniform(0, 1.5) * noise))
    return 0.5 + 0.5 * np.tanh(rng.uniform(0.8, 4) * wave)


def _checks(image_size, noise, rng) -> np.ndarray:
    waves = [np.sin(2 * np.pi * (_phase(image_size, rng, 2, 7) + 0.4 * noise)) for _ in range(2)]
    return 0.5 + 0.5 * np.tanh(3 * waves[0] * waves[1])


def _spots(image_size, noise, rng) -> np.ndarray:
    bumps = _smooth_noise(image_size, int(rng.integers(6, 16)), rng)
    return 0.5 + 0.5 * np.tanh(12 * (bumps - 0.6)) * (0.4 + noise)


_PATTERNS = (_clouds, _gradient, _stripes, _checks, _spots)
