import json
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanced_lvis.activations import centred_offset, foreground_offset, softmax_offset
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from tests import reference


def make(image_count=(90, 10), num_images=100, **kwargs):
    return ClassPrior(tuple(f"c{i}" for i in range(len(image_count))), image_count, num_images, **kwargs)


counts = st.lists(st.integers(1, 900), min_size=2, max_size=20)


@given(counts)
def test_centred_offset_is_the_seeds_formula(image_count):
    offset = centred_offset(make(image_count, 1000))
    np.testing.assert_allclose(offset, reference.balanced_sigmoid_offset_centred(image_count), atol=1e-12)


@given(counts)
def test_foreground_offset_is_the_published_formula(image_count):
    offset = foreground_offset(make(image_count, 1000))
    np.testing.assert_allclose(offset, reference.balanced_sigmoid_offset_foreground(image_count, 1000), atol=1e-12)


def test_centred_offset_of_uniform_counts_is_zero():
    np.testing.assert_allclose(centred_offset(make([7] * 9, 50)), 0, atol=1e-12)


def test_centred_offset_is_positive_for_rarer_and_negative_for_more_frequent_classes():
    rare, average, frequent = centred_offset(make([2, 10, 18], 100))
    assert rare > 0 > frequent
    assert abs(average) < 1e-12


def test_softmax_offset_of_uniform_counts_is_zero():
    np.testing.assert_allclose(softmax_offset(make([3] * 5, 50)), 0, atol=1e-12)


@pytest.mark.parametrize("offset_of", [foreground_offset, centred_offset, softmax_offset])
def test_offsets_are_finite_for_counts_0_1_and_all_images(offset_of):
    assert np.isfinite(offset_of(make([0, 1, 5, 5], 5))).all()
    assert np.isfinite(offset_of(make([1], 1))).all()


def test_a_count_of_one_is_exact():
    assert make([1, 99], 100).image_frequency()[0] == 0.01


def test_zero_counts_are_reported_once(caplog):
    with caplog.at_level(logging.WARNING, logger="balanced_lvis"):
        for _ in range(3):
            ClassPrior(("seen", "never_seen_before"), [3, 0], 10)
    assert [r for r in caplog.records if "never_seen_before" in r.getMessage()] == caplog.records
    assert len(caplog.records) == 1


def test_groups_follow_lvis_rule_at_its_edges():
    image_count = [0, 1, 10, 11, 100, 101, 5000]
    assert list(make(image_count, 5000).groups()) == [reference.lvis_group(c) for c in image_count]


def test_counting_annotations():
    records = [
        {"image_id": 1, "annotations": [{"category_id": 0}, {"category_id": 0}, {"category_id": 1}]},
        {"image_id": 2, "annotations": [{"category_id": 0}, {"category_id": 1, "iscrowd": 1}]},
        {"image_id": 3, "annotations": []},
    ]
    prior = ClassPrior.from_dataset_dicts(records, ["a", "b"])
    assert prior.image_count.tolist() == [2, 1]
    assert prior.instance_count.tolist() == [3, 1]
    assert prior.num_images == 3


def test_saving_and_loading_gives_the_same_prior(tmp_path):
    for prior in (make([4, 5], 9), make([4, 5], 9, instance_count=[40, 5])):
        prior.save(tmp_path / "prior.json")
        back = ClassPrior.load(tmp_path / "prior.json")
        assert back.class_names == prior.class_names
        assert back.num_images == prior.num_images
        assert back.image_count.tolist() == prior.image_count.tolist()
        assert (back.instance_count is None) == (prior.instance_count is None)


def test_merging_adds_up():
    merged = ClassPrior.merge([make([1, 2], 5), make([3, 4], 6)])
    assert merged.image_count.tolist() == [4, 6]
    assert merged.num_images == 11


def test_a_prior_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        make().image_count[0] = 5


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: make([1, -1]), "image_count"),
        (lambda: make([1, 2.5]), "image_count"),
        (lambda: make([float("nan"), 2]), "image_count"),
        (lambda: make([]), "image_count"),
        (lambda: ClassPrior(("a",), [1, 2], 5), "2 entries for 1 class names"),
        (lambda: make([101, 2], 100), "num_images = 100"),
        (lambda: make([1, 2], 0), "num_images is 0"),
        (lambda: make().share("pixel"), "'pixel'.*'image', 'instance'"),
        (lambda: centred_offset(make(), "instance"), "has image counts only"),
        (lambda: ClassPrior.from_dataset_dicts([], ["a"]), "no images"),
        (lambda: ClassPrior.from_dataset_dicts([{"annotations": [{"category_id": 7}]}], ["a"]), "category_id 7"),
        (lambda: make([1, 2]).check_classes(["c0", "dog"], "data set 'pets'"), "'c1', in data set 'pets' it is 'dog'"),
        (lambda: make([1, 2]).check_classes(["c0"], "data set 'pets'"), "2 classes, data set 'pets' has 1"),
    ],
)
def test_bad_arguments_are_named(make_it, message):
    with pytest.raises(InputError, match=message):
        make_it()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "can't be read"),
        ("{", "not valid JSON"),
        ("[]", "not a class prior"),
        ('{"format": "something else"}', "not a class prior"),
        (json.dumps({"format": "balanced_lvis class prior 1", "num_images": 3}), "incomplete"),
        (json.dumps({"format": "balanced_lvis class prior 1", "num_images": 3, "classes": [1]}), "malformed"),
        (json.dumps({"format": "balanced_lvis class prior 1", "num_images": "many", "classes": []}), "num_images"),
        (
            json.dumps(
                {
                    "format": "balanced_lvis class prior 1",
                    "num_images": 3,
                    "classes": [{"name": "a", "image_count": "x"}],
                }
            ),
            "image_count",
        ),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "prior.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        ClassPrior.load(path)


def test_a_byte_order_mark_is_read_and_another_encoding_named(tmp_path):
    path = tmp_path / "prior.json"
    ClassPrior(["caf\u00e9"], [2], 3).save(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert ClassPrior.load(path).class_names == ("caf\u00e9",)
    path.write_text('{"format": "\u00e9"}', encoding="latin-1")
    with pytest.raises(InputError, match="is not UTF-8; save it as UTF-8"):
        ClassPrior.load(path)
