"""The fractal dimension of box centres, and its place in the class prior."""

import json

import numpy as np
import pytest

from balanced_lvis.priors import ClassPrior, fractal_dimension
from balanced_lvis.utils.errors import InputError
from tests import reference_calibration as naive


def make(**options):
    return ClassPrior(("a", "b"), [3, 4], 10, **options)


@pytest.mark.parametrize("seed", range(3))
def test_it_equals_naive_loops(seed):
    rng = np.random.default_rng(seed)
    sizes = [0, 1, 3, 4, 5, 8, 9, 60, 700, 5000]
    classes = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = rng.random((len(classes), 2)) ** rng.choice([1, 3], 2)
    found = fractal_dimension(classes, centres, len(sizes))
    for c in range(len(sizes)):
        own = [tuple(map(float, centre)) for centre in centres[classes == c]]
        assert found[c] == pytest.approx(naive.fractal_dimension(own), abs=1e-12)


def test_a_filled_image_has_dimension_2_and_a_line_or_a_point_1():
    side = (np.arange(64) + 0.5) / 64
    filled = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    line = np.stack([np.linspace(0, 1, 4096), np.full(4096, 0.5)], axis=1)
    centres = np.concatenate([filled, line, np.full((4096, 2), 0.3)])
    found = fractal_dimension(np.repeat([0, 1, 2], 4096), centres, 3)
    np.testing.assert_allclose(found, [2, 1, 1], atol=1e-12)


def test_centres_on_and_beyond_the_border_are_in_the_nearest_cell():
    corners = [[0, 0], [1, 0], [0, 1], [1, 1], [1.5, -0.5]]
    assert fractal_dimension([0] * 5, corners, 1)[0] == pytest.approx(2)


def test_without_objects_it_is_1():
    assert fractal_dimension([], np.zeros((0, 2)), 3).tolist() == [1, 1, 1]


def test_it_is_saved_and_loaded(tmp_path):
    prior = make(fractal_dimension=[1.25, 2])
    prior.save(tmp_path / "prior.json")
    assert ClassPrior.load(tmp_path / "prior.json").fractal_dimension.tolist() == [1.25, 2]
    assert json.loads((tmp_path / "prior.json").read_text())["classes"][0]["fractal_dimension"] == 1.25


def test_files_without_it_are_read(tmp_path):
    make().save(tmp_path / "prior.json")
    assert "fractal_dimension" not in (tmp_path / "prior.json").read_text()
    assert ClassPrior.load(tmp_path / "prior.json").fractal_dimension is None


def test_merged_priors_have_none():
    assert ClassPrior.merge([make(fractal_dimension=[1, 2])] * 2).fractal_dimension is None


@pytest.mark.parametrize("value", [[1], [1, float("nan")], [0, 1], "ab", [[1, 2]], [1, "x"]])
def test_bad_values_are_named(value):
    with pytest.raises(InputError, match="fractal_dimension must be 2 numbers above 0"):
        make(fractal_dimension=value)
