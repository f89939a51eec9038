"""A prior that several test modules share."""

import pytest

from balanced_lvis.priors import ClassPrior
from tests.activations.batches import IMAGE_COUNT, INSTANCE_COUNT, NUM_IMAGES


@pytest.fixture
def prior():
    return ClassPrior(tuple("abcdef"), IMAGE_COUNT, NUM_IMAGES, INSTANCE_COUNT)
