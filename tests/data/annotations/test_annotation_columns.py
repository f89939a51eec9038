"""Annotations give the same report and index in columns of many, one at a time, and parsed by Python's json."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balanced_lvis.data.annotations import annotation_columns, annotation_reader
from balanced_lvis.data.annotations.annotation_columns import AnnotationColumns, split_columns
from balanced_lvis.data.annotations.annotation_reader import Annotation, RecordError, read_annotation, read_parts
from balanced_lvis.data.index import building
from balanced_lvis.data.index.array_file import ArrayFile
from balanced_lvis.data.index.building import NotIndexableError, build_index
from balanced_lvis.data.validation import annotation_file, validate_annotations
from balanced_lvis.utils.errors import InputError

numbers = st.one_of(
    st.floats(0, 30).map(lambda x: round(x, 2)),
    st.integers(0, 20),
    st.sampled_from([-0.0, 0.1 + 0.2, 655.36, 1e300, -5, 2**53 + 2, 2**62, 10**20, 10**30, float("nan"), float("inf")]),
    st.sampled_from([None, True, "1"]),
)
# Mostly valid, so that valid and invalid annotations are neighbours.
valid_numbers = st.floats(0, 30).map(lambda x: round(x, 2))
boxes = st.lists(valid_numbers, min_size=4, max_size=4)
polygons = st.lists(valid_numbers, min_size=6, max_size=9)
strange = st.fixed_dictionaries(
    {},
    optional={
        "id": numbers,
        "image_id": numbers,
        "category_id": numbers,
        "bbox": st.one_of(st.lists(numbers, min_size=3, max_size=5), st.none()),
        "segmentation": st.one_of(
            st.none(),
            st.lists(st.lists(numbers, max_size=8), max_size=3),
            st.lists(numbers, max_size=7),
            st.just({"size": [10, 20], "counts": "abc"}),
        ),
        "area": numbers,
        "iscrowd": numbers,
        "ignore": numbers,
        "attributes": st.just([{"of": [1]}, {"of": {}}, "}, {"]),
    },
)
annotations = st.builds(
    lambda box, mask, area, change: {"bbox": box, "segmentation": mask, "area": area, "category_id": 1, **change},
    boxes,
    st.lists(polygons, min_size=1, max_size=3),
    valid_numbers,
    st.one_of(st.just({}), st.just({}), strange),
)


def content(objects):
    images = [{"id": i, "width": 20, "height": 10, "coco_url": f"http://x/train/{i}.jpg"} for i in (3, 1)]
    objects = [{"id": i, "image_id": 3 if i % 3 else 1, **one} for i, one in enumerate(objects)]
    return {"annotations": objects, "categories": [{"id": 1, "name": "a"}], "images": images}


def one_at_a_time(patch):
    for module in (building, annotation_file):
        patch.setattr(module, "split_columns", list)


def by_json(patch):
    patch.setattr(annotation_reader, "_DECODERS", {})


def outcome(path):
    """The report, and the arrays of the index or the error."""
    index = path.with_suffix(".index")
    try:
        with open(index, "wb+") as file:
            build_index(str(path), file)
        made = {name: array.tolist() for name, array in ArrayFile(index).arrays.items()}
    except (InputError, NotIndexableError) as error:
        made = (type(error), str(error))
    return validate_annotations(path).to_dict(), made


@settings(deadline=None, max_examples=60)
@given(st.lists(annotations, max_size=8))
def test_every_way_of_reading_gives_the_same_report_and_index(tmp_path_factory, objects):
    path = tmp_path_factory.mktemp("x") / "x.json"
    path.write_text(json.dumps(content(objects)))
    found = outcome(path)
    for change in (one_at_a_time, by_json):
        with pytest.MonkeyPatch.context() as patch:
            change(patch)
            assert outcome(path) == found


def records_of(tmp_path, objects):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content(objects)))
    with open(path, "rb") as file:
        return [record for key, records in read_parts(file) if key == "annotations" for record in records]


VALID = {"bbox": [1.5, 2.0, 3.0, 4.0], "area": 6.0, "category_id": 1, "segmentation": [[1.5, 2.0, 4.5, 2.0, 4.5, 6.0]]}


def test_valid_annotations_become_columns_around_the_others(tmp_path):
    changes = [{}, {"area": 1}, {"iscrowd": 1}, {}, {"bbox": [0.0, 0.0, 0.0, 2.0]}, {"id": 9.5}, {}]
    parts = list(split_columns(records_of(tmp_path, [{**VALID, **change} for change in changes])))
    assert [len(part) if isinstance(part, AnnotationColumns) else type(part) for part in parts] == [
        *(2, Annotation, 1, Annotation, RecordError, 1)
    ]
    assert parts[0].numbers.tolist() == 2 * [1.5, 2, 3, 4, 1.5, 2, 4.5, 2, 4.5, 6]
    assert parts[0].id.tolist() == [0, 1]


def test_integers_stay_integers(tmp_path):
    whole = {**VALID, "segmentation": [[1, 2.0, 4.5, 2, 4.5, 6.0]], "bbox": [1, 2, 3, 4]}
    (columns,) = split_columns(records_of(tmp_path, [VALID, whole]))
    assert columns.whole.astype(int).tolist() == 10 * [0] + [1, 1, 1, 1, 1, 0, 0, 1, 0, 0]
    (columns,) = split_columns(records_of(tmp_path, [VALID]))
    assert columns.whole is None


def test_most_annotations_are_decoded_many_at_a_time(tmp_path, monkeypatch):
    """All but those at the ends of what is in memory."""
    read = []
    monkeypatch.setattr(
        annotation_reader, "read_annotation", lambda element: read.append(1) or read_annotation(element)
    )
    assert len(records_of(tmp_path, 50 * [VALID])) == 50
    assert len(read) <= 1


@pytest.mark.parametrize("values", [[1.5, None], [1.5, "1"], [1.5, True]])
def test_values_that_are_no_numbers_are_refused(values):
    with pytest.raises(TypeError):
        annotation_columns._numbers(values)


def test_outlines_are_those_of_each_mask():
    from balanced_lvis.data.validation.comparisons import outlines

    first, turned, other = (
        [1.0, 2.0, 5.0, 2.0, 3.0, 7.0],
        [1.0, 2.0, 3.0, 7.0, 5.0, 2.0],
        [1.0, 2.0, 3.0, 7.0, 5.0, 2.5],
    )
    numbers, lengths = np.array([*first, *turned, *other, *first, *first]), np.array([6, 6, 6, 12])
    polygons = np.array([1, 1, 1, 2])
    extents, hashes = outlines(numbers, lengths, polygons)
    assert extents.tolist() == [[1, 2, 5, 7]] * 4
    assert hashes[0] == hashes[1] and len(set(hashes.tolist())) == 3
    for start, length, count, expected in zip([0, 6, 12, 18], lengths, polygons, hashes):
        assert outlines(numbers[start : start + length], np.array([length]), np.array([count]))[1] == expected
    assert outlines(numbers[18:], np.array([12]), np.array([1]))[1] != hashes[3], "one polygon with the same points"
