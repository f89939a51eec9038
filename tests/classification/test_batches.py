"""Samplers, transforms and batches: functions of the seed and the iteration."""

import pickle

import numpy as np
import pytest
import torch

from balanced_lvis.classification.data import ImageSet
from balanced_lvis.classification.data.augmentation import TRANSFORMS, build_transforms
from balanced_lvis.classification.data.batches import BatchLoader, ordered_batches, training_batches
from balanced_lvis.classification.samplers import SAMPLERS
from balanced_lvis.utils.errors import InputError

LABELS = np.array([0] * 12 + [1] * 4 + [3] * 1)


def image_set() -> ImageSet:
    rng = np.random.default_rng(0)
    return ImageSet(rng.integers(0, 256, (17, 8, 8, 3)).astype(np.uint8), LABELS, ("a", "b", "none", "d"))


def test_each_epoch_of_the_instance_sampler_has_every_image_once_in_a_new_order():
    sampler = SAMPLERS.build("instance", LABELS, 4, 5, 0)
    stream = np.concatenate([sampler.indices(i) for i in range(17)])  # five epochs
    epochs = stream.reshape(5, 17)
    assert all(sorted(epoch) == list(range(17)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 5


def test_a_batch_may_be_larger_than_several_epochs():
    indices = SAMPLERS.build("instance", LABELS, 4, 40, 0).indices(3)
    assert len(indices) == 40 and np.bincount(indices).min() >= 1


def test_the_class_balanced_sampler_draws_classes_uniformly_and_leaves_out_empty_ones():
    sampler = SAMPLERS.build("class_balanced", LABELS, 4, 30, 0)
    classes = np.bincount(LABELS[np.concatenate([sampler.indices(i) for i in range(200)])], minlength=4) / 6000
    assert classes[2] == 0 and np.abs(classes[[0, 1, 3]] - 1 / 3).max() < 0.03
    images = np.bincount(np.concatenate([sampler.indices(i) for i in range(200)]), minlength=17) / 6000
    assert np.abs(images[:12] - 1 / 36).max() < 0.01


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_batches_follow_from_the_seed_and_the_iteration_alone(name):
    def batch(seed, iteration):
        return SAMPLERS.build(name, LABELS, 4, 6, seed).indices(iteration).tolist()

    assert batch(0, 7) == batch(0, 7)
    assert batch(0, 7) != batch(1, 7) and batch(0, 7) != batch(0, 8)


@pytest.mark.parametrize("workers", [0, 2])
def test_augmented_batches_are_the_same_with_any_number_of_workers_and_any_start(workers):
    load = BatchLoader(image_set(), build_transforms(["crop", "flip", "autoaugment", "cutout"], [1, 2, 3]), seed=3)
    sampler = SAMPLERS.build("instance", LABELS, 4, 4, 3)
    expected = [load(sampler.indices(i), i) for i in range(5)]
    state = torch.get_rng_state()
    found = list(training_batches(load, sampler, 2, 5, workers, pin=False))
    assert len(found) == 3 and (torch.get_rng_state() == state).all()
    for (images, labels), (expected_images, expected_labels) in zip(found, expected[2:]):
        assert torch.equal(images, expected_images) and torch.equal(labels, expected_labels)
        assert images.shape == (4, 3, 8, 8) and images.dtype == torch.uint8
    again, _ = load(sampler.indices(2), 3)  # another iteration, other transforms
    assert not torch.equal(again, expected[2][0])


def test_transforms_can_be_sent_to_workers_that_are_not_forked():
    transform = build_transforms(list(TRANSFORMS), [1.0, 2.0, 3.0])
    image = image_set().images[0].transpose(2, 0, 1)
    torch.manual_seed(0)
    expected = transform(torch.from_numpy(image))
    torch.manual_seed(0)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(torch.from_numpy(image)), expected)


def test_cutout_fills_a_quarter_of_the_image():
    image = torch.full((3, 32, 32), 200, dtype=torch.uint8)
    changed = build_transforms(["cutout"], [10.0, 20.0, 30.0])(image)
    for channel, value in enumerate((10, 20, 30)):
        assert (changed[channel] == value).sum() == 256 and (changed[channel] == 200).sum() == 768


def test_a_crop_keeps_the_size_and_moves_the_image_by_up_to_four_pixels():
    image = torch.arange(1, 65, dtype=torch.uint8).reshape(1, 8, 8).repeat(3, 1, 1)
    crops = [build_transforms(["crop"], [0, 0, 0])(image) for _ in range(20)]
    assert all(crop.shape == image.shape for crop in crops) and len({crop.numpy().tobytes() for crop in crops}) > 10


def test_an_unknown_transform_or_sampler_is_an_error():
    assert build_transforms((), [0, 0, 0]) is None
    with pytest.raises(InputError, match="INPUT.TRANSFORMS has 'cutou'. Did you mean 'cutout'"):
        build_transforms(["cutou"], [0, 0, 0])
    with pytest.raises(InputError, match="Unknown sampler 'balanced'"):
        SAMPLERS.build("balanced", LABELS, 4, 5, 0)
    assert set(TRANSFORMS) == {"crop", "flip", "autoaugment", "cutout"}


def test_ordered_batches_have_every_image_in_order():
    found = list(ordered_batches(image_set(), 5))
    assert [len(labels) for _, labels in found] == [5, 5, 5, 2]
    assert torch.cat([labels for _, labels in found]).tolist() == LABELS.tolist()
