"""The fractal (box-counting) dimension of the places at which the objects of each class are in images."""

from __future__ import annotations

import numpy as np

MAX_CELLS = 64  # cells of the finest grid, per side
MIN_OBJECTS = 4  # of a class whose dimension is estimated


def fractal_dimension(classes: np.ndarray, centres: np.ndarray, num_classes: int) -> np.ndarray:
    """
    How evenly the box centres of each class are spread over the image: 1 on a line or for too few objects, 2 if they
    fill it.

    The image is divided into g x g cells, for g from 1 to 64. The dimension of a class is the slope of the least
    squares line through the points (log g, log of the number of cells with a centre), over the grids that have no more
    cells than the class has objects. It is 1 for a class of fewer than 4 objects, and at least 1 (Alexandridis et al.,
    Fractal Calibration for Long-tailed Object Detection, CVPR 2025).

    Args:
        classes: (A,) whole numbers in 0..K-1, of all objects.
        centres: (A, 2), x and y of the centre of each box as fractions of the image's width and height. Centres outside
            the image count in the nearest cell.
        num_classes: K.

    Returns:
        (K,) float64.
    """
    classes = np.asarray(classes, np.int64)
    # Below 1, so that the last cell includes the border.
    x, y = np.clip(np.asarray(centres, np.float64).reshape(-1, 2).T, 0.0, np.nextafter(1.0, 0.0))
    num_objects = np.bincount(classes, minlength=num_classes)
    finest = np.minimum(MAX_CELLS, np.sqrt(num_objects).astype(np.int64))  # grid of each class
    cells = np.zeros((num_classes, MAX_CELLS))
    for grid in range(1, int(finest.max(initial=0)) + 1):
        kept = finest[classes] >= grid  # other classes need neither this grid nor a finer one
        if not kept.all():
            classes, x, y = classes[kept], x[kept], y[kept]
        cells[:, grid - 1] = _occupied(classes, x, y, grid, num_classes)
    slope = _slope(np.log(np.arange(1, MAX_CELLS + 1)), cells, finest)
    return np.where(num_objects < MIN_OBJECTS, 1.0, np.maximum(slope, 1.0))


def _occupied(classes: np.ndarray, x: np.ndarray, y: np.ndarray, grid: int, num_classes: int) -> np.ndarray:
    """(K,) number of cells of a grid that contain a centre of each class."""
    occupied = np.zeros(num_classes * grid * grid, bool)
    occupied[(classes * grid + (y * grid).astype(np.int64)) * grid + (x * grid).astype(np.int64)] = True
    return np.count_nonzero(occupied.reshape(num_classes, -1), axis=1)


def _slope(log_grid: np.ndarray, cells: np.ndarray, finest: np.ndarray) -> np.ndarray:
    """(K,) slope of the least squares line of each class over its grids 1..finest; 0 for fewer than two grids."""
    used = np.arange(1, MAX_CELLS + 1) <= finest[:, None]
    number = np.maximum(used.sum(axis=1), 1)
    log_cells = np.log(np.maximum(cells, 1))
    deviation = np.where(used, log_grid - ((used * log_grid).sum(axis=1) / number)[:, None], 0.0)
    variance = (deviation**2).sum(axis=1)
    return (deviation * log_cells).sum(axis=1) / np.where(variance > 0, variance, 1.0)
