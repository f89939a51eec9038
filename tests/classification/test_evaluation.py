import numpy as np
import pytest

from balanced_lvis.classification import run
from balanced_lvis.classification.data import Dataset, ImageSet
from balanced_lvis.classification.evaluation import frequency_groups, marginal, results_of


def test_the_marginal_of_a_perfectly_calibrated_model_is_uniform():
    """Images are of one of six kinds; the model gives each kind its true class frequencies."""
    rng = np.random.default_rng(0)
    kinds, num_classes, per_class = 6, 5, 40
    labels = np.repeat(np.arange(num_classes), per_class)
    kind = rng.integers(kinds, size=len(labels))
    frequency = np.zeros((kinds, num_classes))
    for k, y in zip(kind, labels):
        frequency[k, y] += 1
    scores = frequency[kind] / frequency[kind].sum(axis=1, keepdims=True)
    assert np.allclose(marginal(scores, labels), 1 / num_classes)
    biased = marginal(scores * np.array([8, 4, 2, 1, 1]), labels)
    assert biased[0] > 1.5 / num_classes and biased.sum() == pytest.approx(1)


def test_on_an_unbalanced_test_set_every_class_has_the_same_weight():
    """As if the images of the rare class were repeated until the test set is balanced."""
    rng = np.random.default_rng(2)
    scores, labels, counts = rng.random((22, 3)), np.repeat([0, 1], [20, 2]), np.array([9, 5, 1])
    balanced = np.concatenate([np.arange(20), np.tile([20, 21], 10)])
    found, expected = (results_of(scores[at], labels[at], counts) for at in (np.arange(22), balanced))
    assert found["balanced_accuracy"] == pytest.approx(expected["accuracy"]) != pytest.approx(found["accuracy"])
    assert found["marginal"] == pytest.approx(marginal(scores[balanced], labels[balanced]).tolist())
    assert found["test_counts"] == [20, 2, 0]


def test_results_equal_a_plain_count():
    rng = np.random.default_rng(1)
    scores, labels = rng.random((60, 6)), np.repeat(np.arange(6), 10)
    counts = np.array([500, 101, 100, 20, 19, 0])
    results = results_of(scores, labels, counts)
    right = [0] * 6
    for row, label in zip(scores.tolist(), labels.tolist()):
        right[label] += row.index(max(row)) == label
    per_class = [10 * n for n in right]
    assert results["per_class"] == pytest.approx(per_class)
    assert results["accuracy"] == results["balanced_accuracy"] == pytest.approx(sum(per_class) / 6)
    assert results["marginal"] == (scores / scores.sum(axis=1, keepdims=True)).mean(axis=0).tolist()  # to the last bit
    assert results["many"] == pytest.approx((per_class[0] + per_class[1]) / 2)
    assert results["medium"] == pytest.approx((per_class[2] + per_class[3]) / 2)
    assert results["few"] == pytest.approx((per_class[4] + per_class[5]) / 2)
    assert results["train_counts"] == counts.tolist() and results["test_images"] == 60


def test_groups_are_many_above_100_medium_from_20_and_few_below():
    groups = frequency_groups(np.array([101, 100, 20, 19]))
    assert {name: members.tolist() for name, members in groups.items()} == {
        "many": [True, False, False, False],
        "medium": [False, True, True, False],
        "few": [False, False, False, True],
    }


def test_a_group_or_class_without_test_images_is_left_out():
    results = results_of(np.array([[0.9, 0.1]]), np.array([0]), np.array([200, 5]))
    assert results["accuracy"] == results["many"] == 100
    assert results["medium"] is None and results["few"] is None and results["per_class"] == [100, None]


def test_scores_that_are_no_distribution_are_normalized():
    assert marginal(np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([0, 1])).tolist() == [0.25, 0.25]


def test_an_unbalanced_test_set_is_reported_once(caplog):
    class Unbalanced(Dataset):
        def test(self):
            return ImageSet(np.zeros((22, 8, 8, 3), np.uint8), np.repeat([0, 1], [20, 2]), ("cat", "dog"))

    for _ in range(2):
        run.test_set(Unbalanced())
    assert caplog.text.count("The test set is unbalanced: its classes have 2 to 20 images.") == 1
