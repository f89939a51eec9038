"""Where boxes and polygons begin and end, of many annotations."""

from __future__ import annotations

from array import array

import numpy as np

TOLERANCE = 1.0  # pixels; COCO's and LVIS's own coordinates are rounded
_FAR = 1e9  # pixels; what is further out is as wrong as this


class Extents:
    """Corners of annotations, 20 bytes each; of each annotation those of its box, or of all of its mask."""

    def __init__(self):
        self._rows, self._corners = array("i"), array("f")

    def add(self, row: int, x0: float, y0: float, x1: float, y1: float) -> None:
        """
        Args:
            row: the annotation's place in the file, from 0.
            x0, y0, x1, y1: finite, in pixels.
        """
        if x0 < -_FAR or y0 < -_FAR or x1 > _FAR or y1 > _FAR:
            x0, y0, x1, y1 = (min(max(value, -_FAR), _FAR) for value in (x0, y0, x1, y1))
        self._rows.append(row)
        self._corners.extend((x0, y0, x1, y1))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(n,) rows, (n, 2) lower x and y, (n, 2) upper."""
        corners = np.array(self._corners, np.float32).reshape(-1, 4)
        return np.array(self._rows, np.int64), corners[:, :2], corners[:, 2:]
