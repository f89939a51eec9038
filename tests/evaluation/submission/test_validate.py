"""Validation: what is sound passes, every fault is found and told apart, and nothing else than InputError is raised."""

import contextlib
import copy
import json
import math
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from balanced_lvis.evaluation.submission import KINDS, ImageList, validate_submission
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.io import write_json
from tests.evaluation.made import HEIGHT, WIDTH, box_mask, made_content

IMAGES = 4


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "annotations.json"
    write_json(path, made_content([], images=IMAGES))
    return ImageList(path)


def rle(box) -> dict:
    mask = box_mask(np.array(box))
    return {"size": list(mask["size"]), "counts": mask["counts"].decode()}


def submission(task="segm") -> list[dict]:
    """Three sound detections in each image."""
    records = []
    for image in range(1, IMAGES + 1):
        for k in range(3):
            box = [k, k, 4 + image, 5.5]
            shape = {"segmentation": rle(box)} if task == "segm" else {"bbox": box}
            records.append({"image_id": image, "category_id": k + 1, "score": 0.5 / (k + image), **shape})
    return records


def validated(path, records, images):
    path.write_text(records if isinstance(records, str) else json.dumps(records))
    return validate_submission(path, images)


@pytest.mark.parametrize("task", ["segm", "bbox"])
def test_a_sound_submission_has_no_problem(tmp_path, images, task):
    report = validated(tmp_path / "x.json", submission(task), images)
    assert (report.task, report.num_detections, report.num_images, report.problems) == (task, 12, IMAGES, ())


def mutate(records, index, path, value):
    record = records[index]
    for key in path[:-1]:
        record = record[key]
    if value is KeyError:
        del record[path[-1]]
    else:
        record[path[-1]] = value


EMPTY = mask_util.encode(np.zeros((HEIGHT, WIDTH), np.uint8, order="F"))["counts"].decode()
COUNTS, SIZE = ("segmentation", "counts"), ("segmentation", "size")
MUTATIONS = {
    "unknown_image": [(("image_id",), value) for value in (0, 99, -1, 2**40)],
    "unknown_category": [(("category_id",), value) for value in (0, 5, -3)],
    "score_not_finite": [(("score",), value) for value in (math.nan, math.inf, -math.inf)],
    "rle_wrong_size": [(SIZE, value) for value in ([WIDTH, HEIGHT], [1, 1], [HEIGHT, WIDTH + 1])],
    "rle_undecodable": [(COUNTS, value) for value in ("", "P", "0", "z{}", "1" * 10_000, "é", "oooooooooooo", " " * 9)],
    "no_area": [(COUNTS, EMPTY)],
    "bbox_in_mask_file": [(("bbox",), [0, 0, 1, 1])],
    "malformed": [
        *((("image_id",), value) for value in (KeyError, "1", 1.0, None, True, [1], 2**70)),
        *((("category_id",), value) for value in (KeyError, "1", 1.5)),
        *((("score",), value) for value in (KeyError, "0.5", None, True)),
        *((("segmentation",), value) for value in (KeyError, None, [[1, 2, 3, 4, 5, 6]], "x", {})),
        *((SIZE, value) for value in (KeyError, [HEIGHT], [0, 5], [HEIGHT, float(WIDTH)], [2**30, 2**30])),
        *((COUNTS, value) for value in (KeyError, [1, 2], None, 5)),
        (("bbox",), [0, 0, 1]),
    ],
}
CASES = [(kind, *change) for kind, changes in MUTATIONS.items() for change in changes]


@pytest.mark.parametrize(("kind", "path", "value"), CASES)
@given(index=st.integers(1, 11))
@settings(max_examples=5, deadline=None)
def test_each_fault_of_a_mask_is_found(tmp_path_factory, images, kind, path, value, index):
    records = submission()
    mutate(records, index, path, value)
    report = validated(tmp_path_factory.mktemp("x") / "x.json", records, images)
    assert report.count(kind) == 1
    assert {problem.kind for problem in report.problems} <= {kind, "missing_image"}
    (problem,) = (problem for problem in report.problems if problem.kind == kind)
    assert problem.examples[0].startswith(f"number {index + 1}")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("box_invalid", [0, 0, -1, 5]),
        ("box_invalid", [math.nan, 0, 1, 5]),
        ("box_invalid", [0, 10**400, 1, 5]),
        ("no_area", [0, 0, 0, 5]),
        ("malformed", [0, 0, "1", 5]),
        ("malformed", KeyError),
    ],
)
def test_each_fault_of_a_box_is_found(tmp_path, images, kind, value):
    records = submission("bbox")
    mutate(records, 7, ("bbox",), value)
    assert [problem.kind for problem in validated(tmp_path / "x.json", records, images).problems] == [kind]


def test_a_detection_unlike_the_first_is_found(tmp_path, images):
    records = [*submission("segm")[:6], *submission("bbox")[6:]]
    assert validated(tmp_path / "x.json", records, images).count("mixed") == 6


def test_more_than_300_of_an_image_missing_images_and_duplicates_are_counted(tmp_path, images):
    records = [{"image_id": 2, "category_id": 1, "score": k / 400, "bbox": [k % 7, 0, 5, 5]} for k in range(300)]
    report = validated(tmp_path / "x.json", records, images)
    assert {p.kind: (p.count, p.examples) for p in report.problems} == {
        "missing_image": (3, ("image 1", "image 3", "image 4"))
    }
    report = validated(tmp_path / "x.json", [*records, records[5]], images)
    assert {p.kind: p.count for p in report.problems} == {"too_many": 1, "duplicate": 1, "missing_image": 3}
    assert "image 2 with 301" in str(report)
    with pytest.raises(InputError, match="can't be used"):
        report.raise_errors()
    report.raise_errors(but=("too_many",))


@pytest.mark.parametrize("ending", ["]", "}", " x", ",", "\x00", "[]"])
def test_trailing_garbage_is_found(tmp_path, images, ending):
    report = validated(tmp_path / "x.json", json.dumps(submission()) + ending, images)
    assert [problem.kind for problem in report.problems] == ["not_json"]


@given(cut=st.integers(0, 2000))
@settings(max_examples=40, deadline=None)
def test_a_truncated_file_is_found(tmp_path_factory, images, cut):
    text = json.dumps(submission())
    cut %= len(text)
    report = validated(tmp_path_factory.mktemp("x") / "x.json", text[:cut], images)
    assert report.count("not_json") == 1


def test_an_empty_list_is_found(tmp_path, images):
    assert [p.kind for p in validated(tmp_path / "x.json", "[]", images).errors] == ["empty"]


@pytest.mark.parametrize("content", ["", "{}", '{"images": []}', "1", "null", "[" * 100_000, "[1" + "0" * 10_000 + "]"])
def test_what_is_no_list_is_told(tmp_path, images, content):
    assert not validated(tmp_path / "x.json", content, images).ok


def test_a_broken_element_does_not_make_all_the_rest_be_read(tmp_path, images, monkeypatch):
    from balanced_lvis.data.annotations import json_stream

    monkeypatch.setattr(json_stream, "_CHUNK", 100)
    monkeypatch.setattr("balanced_lvis.evaluation.submission.results_reader._LONGEST", 1000)
    report = validated(tmp_path / "x.json", '[{"image_id": 1 ' + json.dumps(submission()) * 20, images)
    assert "longer than 1,000 characters" in str(report)


@given(content=st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda data: b"PK\x03\x04" + data)))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_a_report_or_an_input_error(tmp_path_factory, images, content):
    path = tmp_path_factory.mktemp("x") / "x.json"
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        assert not validate_submission(path, images).ok


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["size", "counts", "x"]), inner),
    max_leaves=6,
)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_random_values_never_fail(tmp_path_factory, images, data):
    records = copy.deepcopy(submission())
    paths = [("image_id",), ("category_id",), ("score",), ("segmentation",), SIZE, COUNTS, ("bbox",)]
    for path in data.draw(st.lists(st.sampled_from(paths), max_size=3, unique=True)):
        if path[:-1] and not isinstance(records[3].get("segmentation"), dict):
            continue
        mutate(records, 3, path, data.draw(VALUES))
    report = validated(tmp_path_factory.mktemp("x") / "x.json", records, images)
    assert all(problem.kind in KINDS for problem in report.problems)


@given(counts=st.text(st.characters(min_codepoint=40, max_codepoint=115), max_size=30))
@settings(max_examples=300, deadline=None)
def test_random_counts_never_fail_and_what_passes_decodes_to_the_same_area(images, tmp_path_factory, counts):
    records = submission()[:1]
    records[0]["segmentation"]["counts"] = counts
    report = validated(tmp_path_factory.mktemp("x") / "x.json", records, images)
    if not report.count("rle_undecodable"):
        mask = mask_util.decode({"size": [HEIGHT, WIDTH], "counts": counts.encode()})
        assert (mask.sum() == 0) == (report.count("no_area") == 1)


def test_a_zip_is_read_and_a_broken_one_told(tmp_path, images):
    path = tmp_path / "x.json.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.json", json.dumps(submission()))
    assert validate_submission(path, images).problems == ()
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], content[:60] + b"\xff\xff" + content[62:]):
        path.write_bytes(broken)
        assert validate_submission(path, images).count("not_json") == 1
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.json", "[]")
        archive.writestr("b.json", "[]")
    assert "2 .json files" in str(validate_submission(path, images))


def test_a_file_that_is_not_there_is_an_input_error(tmp_path, images):
    with pytest.raises(InputError, match="can't be read"):
        validate_submission(tmp_path / "x.json", images)


def test_an_image_list_needs_no_annotations_and_no_categories(tmp_path):
    content = made_content([], images=3)
    write_json(tmp_path / "x.json", {"images": content["images"]})
    found = ImageList(tmp_path / "x.json")
    assert found.ids.tolist() == [1, 2, 3] and found.category_ids.tolist() == list(range(1, 1204))
    for bad in ({}, {"images": []}, {"images": [{"id": 1}]}, {"images": [5]}):
        write_json(tmp_path / "x.json", bad)
        with pytest.raises(InputError):
            ImageList(tmp_path / "x.json")
