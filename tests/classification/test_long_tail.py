import numpy as np
import pytest

from balanced_lvis.classification.data import ImageSet, long_tailed_counts, long_tailed_subset
from balanced_lvis.utils.errors import InputError


def image_set(per_class: int, num_classes: int, seed: int = 0) -> ImageSet:
    """Labels in random order; the only pixel of an image has its position."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(num_classes), per_class))
    return ImageSet(
        np.arange(len(labels)).reshape(-1, 1, 1, 1), labels, tuple(f"class {i}" for i in range(num_classes))
    )


@pytest.mark.parametrize(
    ("per_class", "num_classes", "imbalance", "total"),
    [(5000, 10, 100, 12406), (500, 100, 100, 10847), (5000, 10, 10, 20431), (500, 100, 10, 19573)],
)
def test_totals_are_those_that_are_published_for_cifar(per_class, num_classes, imbalance, total):
    assert long_tailed_counts(per_class, num_classes, imbalance).sum() == total


@pytest.mark.parametrize(
    ("imbalance", "counts"),
    [
        (10, [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]),
        (100, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
        (200, [5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25]),
    ],
)
def test_counts_of_each_class_of_cifar10(imbalance, counts):
    assert long_tailed_counts(5000, 10, imbalance).tolist() == counts


def test_n_max_is_the_mean_count_without_rounding():
    """As in the published rule: a mean of 7 / 2 gives int(3.5 / 1) and int(3.5 / 1.1)."""
    images = ImageSet(np.zeros((7, 1, 1, 3), np.uint8), np.array([0] * 4 + [1] * 3), ("a", "b"))
    assert long_tailed_subset(images, 1.1).counts().tolist() == [3, 3]


def test_the_first_class_keeps_all_and_the_last_one_its_share():
    counts = long_tailed_counts(5000, 10, 200)
    assert counts[0] == 5000 and counts[-1] == 25
    assert (np.diff(counts) < 0).all()
    assert (long_tailed_counts(300, 58, 1) == 300).all()
    assert long_tailed_counts(7, 1, 100).tolist() == [7]


def test_the_subset_is_that_of_the_published_rule_index_by_index():
    images = image_set(per_class=50, num_classes=7)
    np.random.seed(0)
    expected = []
    for i in range(7):
        indices = np.where(images.labels == i)[0]
        np.random.shuffle(indices)
        expected += indices[: int(50 * 0.1 ** (i / 6))].tolist()
    subset = long_tailed_subset(images, 10)
    assert subset.images.ravel().tolist() == expected
    assert subset.labels.tolist() == images.labels[expected].tolist()
    assert long_tailed_subset(images, 10, seed=1).images.ravel().tolist() != expected


def test_the_global_generator_is_left_alone():
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    long_tailed_subset(image_set(10, 3), 5)
    assert np.random.rand() == expected


def test_a_class_with_too_few_images_is_named():
    labels = np.array([0] * 10 + [1] * 2)
    images = ImageSet(np.zeros((12, 1, 1, 3), np.uint8), labels, ("many", "few"))
    with pytest.raises(InputError, match="Class 'few' has 2 training images, but the long-tailed subset needs 3"):
        long_tailed_subset(images, 2)
    assert long_tailed_subset(images, 2, max_count=4).counts().tolist() == [4, 2]


@pytest.mark.parametrize("imbalance", [0.5, 0, -1, float("inf"), float("nan")])
def test_an_imbalance_out_of_range_is_an_error(imbalance):
    with pytest.raises(InputError, match="DATASET.LONG_TAIL.IMBALANCE is"):
        long_tailed_counts(10, 10, imbalance)


def test_the_prior_counts_an_image_once_for_its_class():
    prior = long_tailed_subset(image_set(50, 5), 10).prior()
    assert prior.image_count.tolist() == [50, 28, 15, 8, 5]
    assert prior.num_images == 106 and prior.instance_count.tolist() == prior.image_count.tolist()
    assert np.allclose(prior.share(), prior.image_frequency())


def test_labels_outside_the_classes_are_an_error():
    with pytest.raises(InputError, match="label 2 is outside 0..1"):
        ImageSet(np.zeros((1, 1, 1, 3), np.uint8), np.array([2]), ("a", "b"))
    with pytest.raises(InputError, match="1 images have 2 labels"):
        ImageSet(np.zeros((1, 1, 1, 3), np.uint8), np.array([0, 1]), ("a", "b"))
