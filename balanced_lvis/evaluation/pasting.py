"""
Where masks begin and end in their images, without pasting them.

Detectron2 samples every pixel of a box's crop by bilinear interpolation of the box's M x M mask (zeros around it) and
compares the value with a threshold. Down a column of pixels that value is linear between two rows of the mask. So it is
enough to interpolate each column's values at the M rows and to find where the line from row to row crosses the
threshold: work that grows with the crop's width, not with its area.

Exact all the same: a crossing that rounding errors could move past a pixel's centre, or a row's value that they could
move past the threshold, puts its column in doubt, and columns in doubt are sampled by ``grid_sample``, pixel by pixel.

Shape shorthand: n masks, C columns of pixels of all crops together, D columns in doubt, E edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Columns at a time: what they need stays in the processor's cache, and memory doesn't grow with n.
INTERPOLATED_AT_ONCE = 8192
SAMPLED_AT_ONCE = 64


@dataclass(frozen=True)
class _Columns:
    """
    Columns of pixels of the crops, mask by mask and from left to right.

    Attributes:
        mask: (C,) index of each column's mask.
        x: (C,) its place in the image, in pixels.
        origin: (C,) the place of its row 0, as :func:`mask_edges` counts.
        top, bottom: (C,) its first row in the crop, and the one below the last.
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
    The places where pasted masks change, in column-major order.

    Args:
        masks: (n, M, M) floats on the CPU, n > 0.
        boxes: (n, 4) finite x0, y0, x1, y1 in pixels of the image.
        height, width: of the image, in pixels.
        threshold: the least value that is inside.

    Returns:
        (E,) int64, ascending. Row y, column x of mask i is place ``i * (height * width + 1) + x * height + y``; a mask
        is inside from each edge of even index up to the next edge, which may be just behind its image.
    """
    columns = _columns_of_crops(boxes, height, width)
    parts, doubt = _interpolated_edges(masks, boxes, columns, threshold)
    edges = np.concatenate([np.empty(0, np.int64), *parts, *_sampled_edges(masks, boxes, columns[doubt], threshold)])
    edges.sort(kind="stable")  # which is made for sequences of ascending parts
    return _without_pairs(edges)


def _columns_of_crops(boxes: Tensor, height: int, width: int) -> _Columns:
    """Those of the crops that Detectron2 samples: a box and up to two pixels around it, inside the image."""
    low, high = boxes[:, :2].floor() - 1, boxes[:, 2:].ceil() + 1
    size = torch.tensor([width, height]).to(boxes)
    left, top = torch.minimum(low.clamp(min=0), size).long().numpy().T
    right, bottom = torch.minimum(high.clamp(min=0), size).long().numpy().T
    widths = np.where(bottom > top, np.maximum(right - left, 0), 0)
    mask = np.repeat(np.arange(len(boxes)), widths)
    x = np.arange(len(mask)) - np.repeat(np.cumsum(widths) - widths - left, widths)
    return _Columns(mask, x, mask * (height * width + 1) + x * height, top[mask], bottom[mask])


def _grid_coordinates(pixels: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Where pixels are in a box, -1 and 1 being its ends: Detectron2's expression, so that it is rounded the same."""
    return (pixels.float() + 0.5 - low) / (high - low) * 2 - 1


def _without_pairs(edges: np.ndarray) -> np.ndarray:
    """
    Drop edges that meet another one, two by two, from an ascending sequence.

    Two rows of a small box's mask may cross the threshold between the same two pixels; and where a mask reaches the
    bottom of one column and the top of the next, its run goes on.
    """
    first = np.flatnonzero(np.diff(edges, prepend=-1))
    return edges[first[np.diff(first, append=len(edges)) % 2 == 1]]


# ------------------------------------------------------------------ columns by linear interpolation


def _interpolated_edges(masks, boxes, columns: _Columns, threshold: float) -> tuple[list[np.ndarray], np.ndarray]:
    """
    Returns:
        edges of the columns that are certain, in several arrays; and the columns in doubt, (D,) their indices.
    """
    if masks.dtype != torch.float32 or boxes.dtype != torch.float32:
        return [], np.arange(len(columns))  # the tolerance is float32's
    transposed = np.zeros((len(masks), masks.shape[1] + 2, masks.shape[1] + 2), np.float32)
    transposed[:, 1:-1, 1:-1] = masks.numpy().transpose(0, 2, 1)
    tolerance = _tolerance(masks, threshold)
    extent = boxes[:, 2:] - boxes[:, :2]
    # In an inverted or empty box, the mask's rows don't follow each other downwards.
    doubt = ~((extent > 0) & extent.isfinite()).all(dim=1).numpy()[columns.mask]
    edges = []
    for begin in range(0, len(columns), INTERPOLATED_AT_ONCE):
        part = slice(begin, begin + INTERPOLATED_AT_ONCE)
        chosen, in_doubt = columns[part], doubt[part]
        with np.errstate(all="ignore"):  # infinite values, which end in doubt
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
    A bound of the difference between a value that ``grid_sample`` computes in float32 and the one computed here.

    In units of u = 2^-24 and with V the largest value: Detectron2's and ``grid_sample``'s arithmetic moves a pixel's
    place in the mask by less than 8u (M + 2) rows and 4u (M + 2) columns, on each of which a value changes by at most
    2V; products and sums, there and here, add less than 12uV. Together that is below 28u (M + 2) V; this is 32.
    """
    largest = max(float(masks.abs().max()), threshold, 1e-30)
    if not largest < 1e30:  # NaN too
        return np.inf
    return largest * (masks.shape[-1] + 2) * 2.0**-19


def _interpolate(transposed: np.ndarray, boxes: Tensor, columns: _Columns) -> np.ndarray:
    """
    Values of columns of pixels at the rows of their masks.

    Args:
        transposed: (n, M + 2, M + 2), the masks by column and row, within zeros.

    Returns:
        (c, M + 2) float32, for rows -1 to M.
    """
    size = transposed.shape[1] - 2
    x0, x1 = boxes[torch.from_numpy(columns.mask), ::2].T
    x = _grid_coordinates(torch.from_numpy(columns.x), x0, x1).double().numpy()
    x = np.nan_to_num(np.clip(((x + 1) * size - 1) / 2, -1, size))  # NaN is an empty box's, which is in doubt anyway
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
    Where columns cross the threshold.

    Args:
        values: (c, M + 2), at the masks' rows -1 to M.
        tolerance: of values.

    Returns:
        for each of k crossings, column by column and downwards: (k,) its column, (k,) its row of the mask, fractions
        included, and (k,) how many rows up or down it may be off; and the columns that have a value too close to the
        threshold, so that crossings may be missing.
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
    From rows of a mask to rows of the image: the mask's row i is at i + 0.5 of M in the box, the image's y at y + 0.5.

    Args:
        row, slack: (k,) as :func:`_crossings` returns them.
        mask: (k,) index of their mask.
        size: M.

    Returns:
        (k,) and (k,)
    """
    y0, scale = boxes[:, 1].double().numpy(), (boxes[:, 3] - boxes[:, 1]).double().numpy() / size
    return (row + 0.5) * scale[mask] + y0[mask] - 0.5, slack * scale[mask]


# ------------------------------------------------------------------ columns pixel by pixel


def _sampled_edges(masks, boxes, columns: _Columns, threshold: float) -> list[np.ndarray]:
    """Edges of columns of which every pixel is sampled as Detectron2 samples it, in several arrays."""
    heights = columns.bottom - columns.top
    order = np.argsort(heights, kind="stable")  # together, columns are sampled as far as the highest
    edges = []
    for begin in range(0, len(columns), SAMPLED_AT_ONCE):
        chosen = columns[order[begin : begin + SAMPLED_AT_ONCE]]
        inside = _sample(masks, boxes, chosen, threshold)
        column, row = np.nonzero(inside[:, 1:] != inside[:, :-1])
        edges.append(np.sort((chosen.origin + chosen.top)[column] + row))
    return edges


def _sample(masks, boxes, columns: _Columns, threshold: float) -> np.ndarray:
    """
    (c, 1 + h + 1) bool: which pixels of c columns are inside, False before the first and from the last on; h the most.

    To ``grid_sample`` every column is an image of its own: it computes a pixel from its coordinates alone.
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
