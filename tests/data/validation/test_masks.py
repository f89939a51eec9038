"""RLE masks are judged as pycocotools decodes them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from balanced_lvis.data.validation.masks import decompress, rle_extent, rle_problem, rle_runs


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.randoms(use_true_random=False))
def test_what_pycocotools_encodes_is_decoded_to_the_same_runs(height, width, random):
    mask = np.array([[random.random() < 0.4 for _ in range(width)] for _ in range(height)], np.uint8)
    encoded = mask_util.encode(np.asfortranarray(mask))
    text = encoded["counts"].decode()
    assert rle_problem({"size": [height, width], "counts": text}) == ""
    flat, runs = mask.T.reshape(-1), decompress(text)
    assert np.array_equal(np.repeat(np.arange(len(runs)) % 2, runs), flat)
    assert rle_problem({"size": [height, width], "counts": runs}) == ""
    x, y, w, h = mask_util.toBbox(encoded).tolist()
    extent = rle_extent(rle_runs({"size": [height, width], "counts": text}), height)
    assert extent == ((x, y, x + w, y + h) if mask.any() else None)
    assert rle_problem({"size": [height, width + 1], "counts": text})


@settings(deadline=None)
@given(st.text(st.characters(codec="latin-1"), max_size=40), st.integers(0, 50), st.integers(0, 50))
def test_any_text_as_run_lengths_is_judged(text, height, width):
    problem = rle_problem({"size": [height, width], "counts": text})
    if not problem:  # pycocotools can decode it
        mask = mask_util.decode({"size": [height, width], "counts": text.encode()})
        assert mask.shape == (height, width)


@pytest.mark.parametrize("counts", [None, 5, [1.0, 2.0], [-1, 3], [True, 1], "0" * 3 + "\x7f", "P" * 100, "o"])
def test_counts_that_are_none_are_refused(counts):
    assert rle_problem({"size": [1, 2], "counts": counts})
