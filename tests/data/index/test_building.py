"""Annotation files that can't be indexed are named with what is wrong."""

import json
from pathlib import Path

import pytest

from balanced_lvis.data.index import open_index
from balanced_lvis.data.validation import Report
from balanced_lvis.utils.errors import InputError
from tests.data.index.made import SMALL, K, annotation, content, image, ours, stock, write


def test_an_index_knows_what_is_wrong_with_its_file(tmp_path):
    path = write(tmp_path, content([image(1)], [annotation(1, 1, 99), annotation(2, 2)]))
    report = Report.from_dict(open_index(path).header["report"])
    assert (report.num_images, report.num_annotations, report.num_categories) == (1, 2, K)
    assert (report.count("unknown_category_id"), report.count("unknown_image_id")) == (1, 1)


WHOLE = json.dumps(SMALL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("[]", "it is a list"),
        ("{]", r"Expecting '\"' \(char 1\)"),
        ("{}", "no 'images' and no 'categories'"),
        ('{"images": []}', "no 'categories'"),
        (WHOLE[:-1], "Expecting ',' or '}'"),
        (WHOLE[: len(WHOLE) // 2], r"\(char \d+\)"),
        (WHOLE + "x", rf"Extra data \(char {len(WHOLE)}\)"),
        (WHOLE.replace('"annotations": [', '"annotations": 3, "more": ['), "its 'annotations' is not a list"),
        (WHOLE[:-1] + ', "images": []}', "it has 'images' twice"),
        (WHOLE.replace('"images": [', '"images": [,'), "Expecting value"),
        (WHOLE.replace('"images": [', '"images": [3, '), "in its images, number 1 is 3"),
        (WHOLE.replace("coco_url", "url"), "image 7 has no 'coco_url'"),
        (WHOLE.replace("http://images.cocodataset.org/train2017/", ""), "has no folder"),
        (WHOLE.replace('"segmentation"', '"mask"'), "annotation 1 of image 5 has no polygon"),
        (WHOLE.replace('"id": 2, "image_id"', '"id": 1, "image_id"'), "several annotations have the id 1"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, text, message):
    path = write(tmp_path, text)
    if "twice" not in message:  # json.load takes the last one
        with pytest.raises(Exception):  # noqa: B017
            stock(path)
    with pytest.raises(InputError, match=message) as caught:
        ours(path)
    assert path in str(caught.value)
    assert not list(tmp_path.glob("*.index")) and not list(tmp_path.glob("*.partial"))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = write(tmp_path)
    Path(path).write_bytes(WHOLE.encode().replace(b"train2017", b"train\xff017"))
    with pytest.raises(InputError, match=r"annotations\.json are not in LVIS format: it is not UTF-8; save"):
        ours(path)


@pytest.mark.parametrize(
    ("folder", "what"), [("..", r"goes up with '\.\.'"), ("C:", "is absolute"), ("~", "is absolute")]
)
def test_no_image_is_read_outside_the_folder_of_images(tmp_path, folder, what):
    path = write(tmp_path, WHOLE.replace("/train2017/", f"/{folder}/"))
    with pytest.raises(InputError, match=f"annotations.json .*7.jpg' of image 7 {what}"):
        ours(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json can't be read: No such file"):
        open_index(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="can't be read: Is a directory"):
        open_index(tmp_path)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1.0, 2.0, 3.0, 4.0]], "has an invalid polygon of 4 numbers"),
        ([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0] * 7], "has an invalid polygon of 7 numbers"),
        ([], "has no polygon"),
        ({"size": [480, 640], "counts": "abc"}, "has an RLE mask, .*counts"),
    ],
)
def test_a_polygon_that_detectron2_refuses_is_named(tmp_path, segmentation, message):
    bad = {**annotation(5, 3), "segmentation": segmentation}
    path = write(tmp_path, content([image(3)], [annotation(4, 3), bad]))
    with pytest.raises(AssertionError):
        stock(path)
    with pytest.raises(InputError, match=f"annotations.json: annotation 5 of image 3 {message}"):
        ours(path)
    write(tmp_path, content([image(3)], [annotation(4, 3), {**bad, "image_id": 99}]))
    assert list(ours(path)) == stock(path), "of an unknown image, which neither looks up"
