"""RLE of the masks of annotations."""

import numpy as np
import pytest
from pycocotools import mask as mask_util

from balanced_lvis.data.rle import rle_of

HEIGHT, WIDTH = 12, 10
COUNTS = [26, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 28]  # rows 2..7 of columns 2..7
COMPRESSED = mask_util.frPyObjects({"size": [HEIGHT, WIDTH], "counts": COUNTS}, HEIGHT, WIDTH)["counts"]


@pytest.mark.parametrize("counts", [None, COUNTS, COMPRESSED, COMPRESSED.decode()], ids=lambda c: type(c).__name__)
def test_masks_of_all_forms_are_equal(counts):
    polygons = [[2, 2, 8, 2, 8, 8, 2, 8]]
    rle = rle_of(polygons if counts is None else {"size": [HEIGHT, WIDTH], "counts": counts}, HEIGHT, WIDTH)
    assert isinstance(rle["counts"], bytes)
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[2:8, 2:8] = True
    assert np.array_equal(mask_util.decode(rle), expected)
