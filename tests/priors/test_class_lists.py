"""Which classes are in which image, as arrays."""

import numpy as np
import pytest

from balanced_lvis.priors import ClassLists, HasClassLists
from balanced_lvis.utils.errors import InputError

RECORDS = [
    {"image_id": "a", "annotations": [{"category_id": 2}, {"category_id": 0}, {"category_id": 2}]},
    {"image_id": "b"},
    {"image_id": "c", "annotations": [{"category_id": 1, "iscrowd": 1}, {"category_id": 2, "iscrowd": 0}]},
]


@pytest.mark.parametrize("value", ["0", None, 2])
def test_a_crowd_flag_that_detectron2_takes_for_set_is_refused(value):
    record = {"image_id": "d", "annotations": [{"category_id": 1, "iscrowd": value}]}
    with pytest.raises(InputError, match=f"Image 'd' has an annotation whose iscrowd is {value!r}"):
        ClassLists.of([record])


def test_instances_are_listed_image_after_image_without_crowds():
    lists = ClassLists.of(RECORDS)
    assert lists.classes.tolist() == [2, 0, 2, 2]
    assert lists.first.tolist() == [0, 3, 3, 4]
    assert lists.image_ids == ["a", "b", "c"]
    assert lists.num_images == 3


def test_each_class_has_its_images_once_and_in_order():
    images = ClassLists.of(RECORDS).images_by_class(4)
    assert [found.tolist() for found in images] == [[0], [], [0, 2], []]
    assert all(found.dtype == np.int32 for found in images)


@pytest.mark.parametrize("records", [[], [{}], [{"annotations": []}]])
def test_there_may_be_no_image_or_no_instance(records):
    assert [len(found) for found in ClassLists.of(records).images_by_class(2)] == [0, 0]


def test_the_first_image_with_an_unknown_class_is_named():
    with pytest.raises(InputError, match="Image 'a' has category_id 2, but there are only 2 classes"):
        ClassLists.of(RECORDS).check(2)
    with pytest.raises(InputError, match="Image 7 has category_id -1"):
        ClassLists.of([{}, {"image_id": 7, "annotations": [{"category_id": -1}]}]).check(2)


def test_a_data_set_that_knows_its_classes_is_not_read():
    class Knowing:
        def __len__(self):
            return 0

        def class_lists(self):
            return "its own"

    assert isinstance(Knowing(), HasClassLists)
    assert not isinstance(RECORDS, HasClassLists)
    assert ClassLists.of(Knowing()) == "its own"
