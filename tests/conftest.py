"""What several test modules share. Nothing here needs a GPU, a network or a data set on disk."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch starts OpenMP

import pytest
import torch

from balanced_lvis.config import load_config
from balanced_lvis.data.datasets import register_rendered
from balanced_lvis.data.rendered import RenderedSpec, render_dataset

from .common import CONFIGS, rendered_opts

torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """A small rendered data set, registered: 12 characters, 24 / 12 / 4 images of 96 px."""
    spec = RenderedSpec(
        num_classes=12, train_images=24, val_images=12, test_images=4, image_size=(96, 96), objects_per_image=3
    )
    root = render_dataset(spec, tmp_path_factory.mktemp("data") / "rendered", workers=1)
    register_rendered(root)
    return root


@pytest.fixture
def tiny_cfg(rendered, tmp_path):
    """The quick-start Balanced Sigmoid config on the ``rendered`` fixture."""
    return load_config(CONFIGS / "quick_start" / "balanced_sigmoid.yaml", rendered_opts(rendered, tmp_path / "out"))
