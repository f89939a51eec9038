"""
Edges of masks in their images, computed without pasting the masks.

Detectron2 samples each pixel of a box's crop by bilinear interpolation of the M x M mask (with zeros around it) and
compares the value with a threshold. Along a column of pixels, the value is linear between two rows of the mask. It is
therefore enough to interpolate each column at the M rows and to find where the line between two rows crosses the
threshold. The work grows with the width of the crop, not with its area.

The result is exact. A column is uncertain if rounding errors could move a crossing past the centre of a pixel, or the
value of a row past the threshold. Uncertain columns are sampled pixel by pixel with ``grid_sample``.

Shape shorthand: n masks, C columns of pixels of all crops together, D uncertain columns, E edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Columns processed at a time, so that they fit into the processor's cache, and memory does not grow with n.
INTERPOLATED_AT_ONCE = 8192
SAMPLED_AT_ONCE = 64


@dataclass(frozen=True)
class _Columns:
    """
    Columns of pixels of the crops, mask by mask and from left to right.

    Attributes:
        mask: (C,) index of the mask of each column.
        x: (C,) x coordinate in the image, in pixels.
        origin: (C,) position of row 0, as defined in :func:`mask_edges`.
        top, bottom: (C,) first row in the crop, and the row after the last.
    """

    mask: np.ndarray
    x: np.ndarray
    origin: np.ndarray
    top: np.ndarray
    bottom: np.ndarray

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, item) -> _Columns:
        return _Columns(self.mask[item], self.x[item], self.origin[item], self.top[item], self.bottom[item])


def mask_edges(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> np.ndarray:
    """
    Positions where pasted masks change between outside and inside, in column-major order.

    Args:
        masks: (n, M, M) floats on the CPU, n > 0.
        boxes: (n, 4) finite x0, y0, x1, y1 in pixels of the image.
        height, width: size of the image in pixels.
        threshold: lowest value inside the mask.

    Returns:
        (E,) int64, ascending. The position of row y, column x of mask i is ``i * (height * width + 1) + x * height +
        y``. Each edge of even index starts a run inside the mask, and the next edge ends it, at the latest one position
        after the image.
    """
    columns = _columns_of_crops(boxes, height, width)
    parts, doubt = _interpolated_edges(masks, boxes, columns, threshold)
    edges = np.concatenate([np.empty(0, np.int64), *parts, *_sampled_edges(masks, boxes, columns[doubt], threshold)])
    edges.sort(kind="stable")  # fast for concatenated ascending sequences
    return _without_pairs(edges)


def _columns_of_crops(boxes: Tensor, height: int, width: int) -> _Columns:
    """Columns of the crops that Detectron2 samples: a box and up to two pixels around it, inside the image."""
    low, high = boxes[:, :2].floor() - 1, boxes[:, 2:].ceil() + 1
    size = torch.tensor([width, height]).to(boxes)
    left, top = torch.minimum(low.clamp(min=0), size).long().numpy().T
    right, bottom = torch.minimum(high.clamp(min=0), size).long().numpy().T
    widths = np.where(bottom > top, np.maximum(right - left, 0), 0)
    mask = np.repeat(np.arange(len(boxes)), widths)
    x = np.arange(len(mask)) - np.repeat(np.cumsum(widths) - widths - left, widths)
    return _Columns(mask, x, mask * (height * width + 1) + x * height, top[mask], bottom[mask])


def _grid_coordinates(pixels: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Coordinates of pixels in a box, from -1 to 1: Detectron2's expression, with the same rounding."""
    return (pixels.float() + 0.5 - low) / (high - low) * 2 - 1


def _without_pairs(edges: np.ndarray) -> np.ndarray:
    """
    Remove pairs of equal edges from an ascending sequence.

    In a small box, two rows of the mask may cross the threshold between the same two pixels. Where a mask reaches the
    bottom of one column and the top of the next, its run continues.
    """
    first = np.flatnonzero(np.diff(edges, prepend=-1))
    return edges[first[np.diff(first, append=len(edges)) % 2 == 1]]


# ------------------------------------------------------------------ columns by linear interpolation


def _interpolated_edges(masks, boxes, columns: _Columns, threshold: float) -> tuple[list[np.ndarray], np.ndarray]:
    """
    Returns:
        edges of the certain columns, in several arrays; and (D,) the indices of the uncertain columns.
    """
    if masks.dtype != torch.float32 or boxes.dtype != torch.float32:
        return [], np.arange(len(columns))  # the tolerance is valid for float32
    transposed = np.zeros((len(masks), masks.shape[1] + 2, masks.shape[1] + 2), np.float32)
    transposed[:, 1:-1, 1:-1] = masks.numpy().transpose(0, 2, 1)
    tolerance = _tolerance(masks, threshold)
    extent = boxes[:, 2:] - boxes[:, :2]
    # In an inverted or empty box, the rows of the mask are not in order.
    doubt = ~((extent > 0) & extent.isfinite()).all(dim=1).numpy()[columns.mask]
    edges = []
    for begin in range(0, len(columns), INTERPOLATED_AT_ONCE):
        part = slice(begin, begin + INTERPOLATED_AT_ONCE)
        chosen, in_doubt = columns[part], doubt[part]
        with np.errstate(all="ignore"):  # infinite values make a column uncertain
            values = _interpolate(transposed, boxes, chosen)
            column, row, slack, near = _crossings(values, threshold, tolerance)
            row, slack = _rows_in_image(row, slack, boxes, chosen.mask[column], masks.shape[1])
            in_doubt[column[~(np.abs(row - np.rint(row)) > slack)]] = True
        in_doubt[near] = True
        sure = ~in_doubt[column]
        chosen = chosen[column[sure]]
        edges.append(chosen.origin + np.clip(np.ceil(row[sure]), chosen.top, chosen.bottom).astype(np.int64))
    return edges, np.flatnonzero(doubt)


def _tolerance(masks: Tensor, threshold: float) -> float:
    """
    Bound of the difference between a value that ``grid_sample`` computes in float32 and the one computed here.

    With u = 2^-24 and V the largest value: rounding in Detectron2 and ``grid_sample`` moves the position of a pixel in
    the mask by less than 8u (M + 2) rows and 4u (M + 2) columns, on each of which a value changes by at most 2V.
    Products and sums, there and here, add less than 12uV. The total is below 28u (M + 2) V; the bound uses 32.
    """
    largest = max(float(masks.abs().max()), threshold, 1e-30)
    if not largest < 1e30:  # NaN too
        return np.inf
    return largest * (masks.shape[-1] + 2) * 2.0**-19


def _interpolate(transposed: np.ndarray, boxes: Tensor, columns: _Columns) -> np.ndarray:
    """
    Values of columns of pixels at the rows of their masks.

    Args:
        transposed: (n, M + 2, M + 2) masks by column and row, surrounded by zeros.

    Returns:
        (c, M + 2) float32, for rows -1 to M.
    """
    size = transposed.shape[1] - 2
    x0, x1 = boxes[torch.from_numpy(columns.mask), ::2].T
    x = _grid_coordinates(torch.from_numpy(columns.x), x0, x1).double().numpy()
    x = np.nan_to_num(np.clip(((x + 1) * size - 1) / 2, -1, size))  # NaN occurs in empty boxes, which are uncertain
    left = np.minimum(np.floor(x), size - 1).astype(np.int64)
    rows = transposed.reshape(-1, size + 2)
    first = columns.mask * (size + 2) + 1 + left
    values, step = rows.take(first, axis=0), rows.take(first + 1, axis=0)
    step -= values
    step *= (x - left).astype(np.float32)[:, None]
    values += step
    return values


def _crossings(values: np.ndarray, threshold: float, tolerance: float):
    """
    Crossings of the threshold in columns.

    Args:
        values: (c, M + 2) values at rows -1 to M of the masks.
        tolerance: error of the values.

    Returns:
        for k crossings, column by column from top to bottom: (k,) the column, (k,) the fractional row of the mask, and
        (k,) the error of that row; and the columns with a value too close to the threshold, where crossings may be
        missing.
    """
    size = values.shape[1]
    inside = values >= np.float32(threshold)
    near = np.flatnonzero(~(np.abs(values - np.float32(threshold)) > np.float32(tolerance))) // size
    crossed = np.flatnonzero(inside[:, 1:] != inside[:, :-1])
    column = crossed // (size - 1)
    crossed += column  # as an index of values
    flat = values.ravel()
    before = flat[crossed].astype(np.float64)
    step = flat[crossed + 1] - before
    row = crossed - column * size - 1 + (threshold - before) / step
    return column, row, tolerance / np.abs(step), near


def _rows_in_image(row: np.ndarray, slack: np.ndarray, boxes: Tensor, mask: np.ndarray, size: int):
    """
    Convert rows of a mask to rows of the image. Row i of the mask is at (i + 0.5) / M of the box; row y of the image at
    y + 0.5.

    Args:
        row, slack: (k,) rows and errors from :func:`_crossings`.
        mask: (k,) index of the mask.
        size: M.

    Returns:
        (k,) rows and (k,) errors in pixels.
    """
    y0, scale = boxes[:, 1].double().numpy(), (boxes[:, 3] - boxes[:, 1]).double().numpy() / size
    return (row + 0.5) * scale[mask] + y0[mask] - 0.5, slack * scale[mask]


# ------------------------------------------------------------------ columns pixel by pixel


def _sampled_edges(masks, boxes, columns: _Columns, threshold: float) -> list[np.ndarray]:
    """Edges of columns, found by sampling each pixel as Detectron2 does, in several arrays."""
    heights = columns.bottom - columns.top
    order = np.argsort(heights, kind="stable")  # columns of one group are sampled to the height of the tallest
    edges = []
    for begin in range(0, len(columns), SAMPLED_AT_ONCE):
        chosen = columns[order[begin : begin + SAMPLED_AT_ONCE]]
        inside = _sample(masks, boxes, chosen, threshold)
        column, row = np.nonzero(inside[:, 1:] != inside[:, :-1])
        edges.append(np.sort((chosen.origin + chosen.top)[column] + row))
    return edges


def _sample(masks, boxes, columns: _Columns, threshold: float) -> np.ndarray:
    """
    (c, 1 + h + 1) bool: the pixels of c columns that are inside, padded with False; h is the largest height.

    Each column is a separate image for ``grid_sample``, which computes each pixel from its coordinates only.
    """
    heights = (columns.bottom - columns.top)[:, None]
    down = np.arange(heights.max())
    index = torch.from_numpy(columns.mask)
    x0, y0, x1, y1 = boxes[index].split(1, dim=1)
    grid_y = _grid_coordinates(torch.from_numpy(columns.top[:, None] + down), y0, y1)
    grid_x = _grid_coordinates(torch.from_numpy(columns.x[:, None]), x0, x1).expand_as(grid_y)
    grid = torch.stack([grid_x, grid_y], dim=2)[:, :, None].to(masks.dtype)
    values = F.grid_sample(masks[index, None], grid, align_corners=False)[:, 0, :, 0]
    inside = np.zeros((len(columns), len(down) + 2), bool)
    np.logical_and((values >= threshold).numpy(), down < heights, out=inside[:, 1:-1])
    return inside
