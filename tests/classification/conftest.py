"""A trained model that several test modules share."""

import pytest

from balanced_lvis.classification import train
from tests.classification.made import characters_config


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """The folder of the rendered characters."""
    return tmp_path_factory.mktemp("characters")


@pytest.fixture(scope="session")
def first_stage(cache, tmp_path_factory):
    """Path of a softmax model of four iterations, in a folder to which no test may write."""
    folder = tmp_path_factory.mktemp("softmax")
    train(characters_config("softmax", cache, folder))
    return folder / "model_final.pth"
