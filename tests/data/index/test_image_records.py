"""The records of an index are those of Detectron2's loader."""

import json
import os
import shutil
import tempfile

import numpy as np
import pytest
from detectron2.data import get_detection_dataset_dicts
from detectron2.structures import BoxMode
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from balanced_lvis.data.box_centres import box_centres
from balanced_lvis.data.dataset_records import load_records
from balanced_lvis.data.index import LVISRecords, open_index
from balanced_lvis.data.validation import Report, path_problem
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from tests.common import SHARED_DATA
from tests.data.index.made import SMALL, K, annotation, content, exact, hundredths, image, numbers, ours, stock, write


def test_real_annotations_give_equal_records(tmp_path):
    source = SHARED_DATA / "lvis_val_100.json"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    path = shutil.copy(source, tmp_path)
    expected = stock(path)
    for _ in range(2):  # built, then found
        records = ours(path)
        assert list(records) == expected
        assert exact(records) == exact(expected)
    assert os.path.getsize(f"{path}.index") < os.path.getsize(path) / 4


@pytest.mark.parametrize("filter_empty", [False, True])
@pytest.mark.parametrize("split", ["train", "val", "test_dev"])
def test_the_rendered_data_set_gives_equal_records(rendered, split, filter_empty):
    name = f"rendered_{split}"
    if split == "test_dev" and filter_empty:
        with pytest.raises(InputError, match="rendered_test_dev has no image with annotations"):
            load_records(name, filter_empty)
        return
    records = load_records(name, filter_empty)
    assert isinstance(records, LVISRecords)
    expected = get_detection_dataset_dicts(name, filter_empty)
    assert list(records) == expected
    assert exact(records) == exact(expected)


polygons = st.lists(hundredths, min_size=6, max_size=10) | st.lists(numbers, min_size=6, max_size=8)
categories = st.lists(st.integers(1, K), max_size=3)


@st.composite
def lvis_files(draw):
    ids = draw(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=6, unique=True))
    size = st.integers(1, 2000)
    images = []
    for image_id in ids:
        optional = draw(st.fixed_dictionaries({}, optional={
            "neg_category_ids": categories, "not_exhaustive_category_ids": categories, "license": st.text(max_size=3),
        }))  # fmt: skip
        folder, name = draw(st.text(max_size=5)), draw(st.text(max_size=5))
        url = f"http://{folder.replace('/', '')}/{name.replace('/', '')}"
        assume(not path_problem("/".join(url.split("/")[-2:])))
        images.append({"id": image_id, "height": draw(size), "width": draw(size), "coco_url": url, **optional})
    annotations = [
        annotation(
            i,
            draw(st.sampled_from([*ids, 2**41])),  # the last is of an unknown image, which Detectron2 ignores
            draw(st.integers(1, K)),
            [polygon[: len(polygon) // 2 * 2] for polygon in draw(st.lists(polygons, min_size=1, max_size=3))],
            bbox=draw(st.lists(numbers, min_size=4, max_size=4)),
            iscrowd=draw(st.integers(0, 1)),
        )
        for i in draw(st.permutations(range(draw(st.integers(0, 12)))))
    ]
    keys = draw(st.permutations(["categories", "images", "annotations", "info"]))
    whole = {**content(images, annotations), "info": {"images": [1, {"a": "}"}]}}
    return {key: whole[key] for key in keys}


@settings(deadline=None, max_examples=150)
@given(lvis_files(), st.sampled_from([None, 1]))
def test_any_file_gives_equal_records_priors_and_groups(what, indent):
    with tempfile.TemporaryDirectory() as folder:
        path = write(folder, json.dumps(what, indent=indent))
        expected, records = stock(path), ours(path)
        assert len(records) == len(expected)
        assert exact(records) == exact(expected)
        filled = [record for record in expected if record["annotations"]]
        assert exact(ours(path, filter_empty=True)) == exact(filled)
        names = [str(i) for i in range(K)]
        priors = [ClassPrior.from_dataset_dicts(images, names) for images in (records, expected)]
        for field in ("image_count", "instance_count", "num_images"):
            np.testing.assert_array_equal(*(getattr(prior, field) for prior in priors))
        np.testing.assert_array_equal(*map(box_centres, (records, expected)))
        groups = [0 if record["width"] > record["height"] else 1 for record in expected]
        assert records.aspect_ratio_groups().tolist() == groups


def test_records_are_made_anew_and_may_be_altered(tmp_path):
    records = ours(write(tmp_path))
    assert records[1]["annotations"][0]["bbox_mode"] is BoxMode.XYWH_ABS
    records[1]["annotations"].clear()
    records[2]["neg_category_ids"].append(1)
    assert list(records) == stock(write(tmp_path))


def test_a_file_without_annotations_has_images_without_any(tmp_path):
    with_none = {**SMALL, "annotations": []}
    expected = stock(write(tmp_path, with_none))
    del with_none["annotations"]
    path = write(tmp_path, with_none)
    assert exact(ours(path)) == exact(expected)
    assert len(ours(path, filter_empty=True)) == 0
    assert Report.from_dict(open_index(path).header["report"]).num_annotations is None


def test_it_is_indexed_as_a_list_is(tmp_path):
    path = write(tmp_path)
    records, expected = ours(path), stock(path)
    assert records[-1] == expected[-1]
    assert records[np.int64(0)] == expected[0]
    for index in (3, -4):
        with pytest.raises(IndexError):
            records[index]


def test_the_last_image_of_an_id_counts_as_in_detectron2(tmp_path):
    path = write(tmp_path, content([image(1), image(2), image(1, height=9)], [annotation(1, 1)]))
    assert list(ours(path)) == stock(path)
