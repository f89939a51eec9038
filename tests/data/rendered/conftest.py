"""Rendered datasets that several test modules share."""

from __future__ import annotations

import pytest

from balanced_lvis.data.rendered import render_dataset
from balanced_lvis.data.rendered.lvis_json import draw_image, plan_splits
from tests.data.rendered.made import SMALL


@pytest.fixture(scope="session")
def small_root(tmp_path_factory):
    return render_dataset(SMALL, tmp_path_factory.mktemp("rendered") / "small", workers=1)


@pytest.fixture(scope="session")
def small_drawings():
    """All train and val images of SMALL, drawn again."""
    plans = plan_splits(SMALL)
    return [draw_image(plans[s], i) for s in ("train", "val") for i in range(SMALL.num_images(s))]
