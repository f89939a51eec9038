"""Conversion of COCO and LVIS files to LVIS files, in one pass."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from balanced_lvis.data.custom.conversion_cache import converted
from balanced_lvis.data.custom.convert import ConversionSummary, TrainCounts, convert
from balanced_lvis.evaluation.lvis_api import LVIS, evaluate_on_lvis
from balanced_lvis.utils.errors import InputError
from tests.common import SHARED_DATA
from tests.data.custom import made


def convert_file(path, train=None, image_root="nowhere"):
    output = io.StringIO()
    summary = convert(str(path), image_root, output, train, {"size": 1, "mtime_ns": 2})
    return json.loads(output.getvalue()), summary


def convert_content(tmp_path, content, train=None):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    return convert_file(path, train)


def by_id(records):
    return {record["id"]: record for record in records}


def test_category_ids_stay_and_classes_are_in_their_order(tmp_path):
    found, summary = convert_content(tmp_path, made.content())
    assert summary.category_ids == [3, 7, 90, 91]
    assert summary.class_names == ["cat", "cup", "dog", "owl"]
    assert {a["category_id"] for a in found["annotations"]} == {7, 3, 90}


def test_a_crowd_is_no_object_and_its_category_not_exhaustive(tmp_path):
    found, summary = convert_content(tmp_path, made.content())
    images = by_id(found["images"])
    assert (summary.num_crowds, len(found["annotations"])) == (2, 3)
    assert images[20]["not_exhaustive_category_ids"] == [90]
    assert images[30]["not_exhaustive_category_ids"] == [3]
    assert images[30]["neg_category_ids"] == [7, 90, 91]  # it may have cats


def test_without_federated_fields_what_is_not_there_is_known_to_be_absent(tmp_path):
    found, summary = convert_content(tmp_path, made.content())
    assert not summary.federated
    for image in found["images"]:
        present = {a["category_id"] for a in found["annotations"] if a["image_id"] == image["id"]}
        assert set(image["neg_category_ids"]) == {3, 7, 90, 91} - present - set(image["not_exhaustive_category_ids"])


def test_federated_fields_stay_as_they_are(tmp_path):
    content = made.content()
    content["images"][0].update(neg_category_ids=[91], not_exhaustive_category_ids=[7])
    found, summary = convert_content(tmp_path, content)
    images = by_id(found["images"])
    assert summary.federated
    assert (images[10]["neg_category_ids"], images[10]["not_exhaustive_category_ids"]) == ([91], [7])
    assert images[40]["neg_category_ids"] == []


def test_counts_are_of_objects_and_groups_those_of_training(tmp_path):
    content = made.content()
    found, summary = convert_content(tmp_path, content)
    assert (summary.image_count, summary.instance_count, summary.num_images) == ([1, 1, 1, 0], [1, 1, 1, 0], 4)
    assert {c["frequency"] for c in found["categories"]} == {"r"}
    found, _ = convert_content(
        tmp_path, content, TrainCounts([10, 11, 100, 101], "training", ["cat", "cup", "dog", "owl"])
    )
    assert [(c["id"], c["frequency"], c["image_count"]) for c in found["categories"]] == [
        (3, "r", 10), (7, "c", 11), (90, "c", 100), (91, "f", 101)
    ]  # fmt: skip


def test_run_lengths_stay_the_same_mask(tmp_path):
    found, summary = convert_content(tmp_path, made.content(rles=True))
    assert summary.num_rles == 2
    masks = [mask_util.decode(a["segmentation"]) for a in found["annotations"] if isinstance(a["segmentation"], dict)]
    expected = [mask_util.decode(made.rle(x, y, compressed=True)) for x, y in ((30, 20), (8, 8))]
    np.testing.assert_array_equal(masks, expected)


def test_missing_areas_are_those_of_the_masks(tmp_path):
    content = made.content(rles=True)
    for annotation in content["annotations"]:
        del annotation["area"]
    found, _ = convert_content(tmp_path, content)
    assert [a["area"] for a in found["annotations"]] == [256.0] * 3


def test_annotations_without_masks_have_their_box_for_one_and_are_counted(tmp_path):
    content = made.content()
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    found, summary = convert_content(tmp_path, content)
    assert summary.num_boxes == 3
    assert found["annotations"][0]["segmentation"] == [[8, 8, 24, 8, 24, 24, 8, 24]]


def test_lists_may_come_in_any_order(tmp_path):
    content = made.content()
    assert convert_content(tmp_path, content) == convert_content(tmp_path, dict(reversed(content.items())))


def test_the_official_api_reads_it_and_a_perfect_detector_is_perfect(tmp_path):
    found, _ = convert_content(tmp_path, made.content(rles=True))
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(found))
    truth = LVIS(str(path))
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "score": 0.9, "bbox": a["bbox"],
         "segmentation": truth.ann_to_rle(a)}
        for a in found["annotations"]
    ]  # fmt: skip
    for task in ("bbox", "segm"):
        assert evaluate_on_lvis(truth, results, task)[0]["AP"] == pytest.approx(100)
    # Another dog in the image with the crowd isn't an error; a dog in an image without dogs is.
    crowd = {**results[2], "bbox": [30, 20, 16, 16], "score": 1.0}
    assert evaluate_on_lvis(truth, [*results, crowd], "bbox")[0]["AP"] == pytest.approx(100)
    wrong = {**crowd, "image_id": 40}
    assert evaluate_on_lvis(truth, [*results, wrong], "bbox")[0]["AP"] < 90


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("categories"), "has no 'categories'"),
        (lambda c: c.pop("images"), "has no 'images'"),
        (lambda c: c.update(images=[]), "annotations of images that are not in 'images'"),
        (lambda c: c.update(images=[], annotations=[]), "0 images"),
        (lambda c: c["annotations"][0].update(category_id=4), "categories that are not in 'categories'"),
        (lambda c: c["annotations"][0].update(bbox=None), "annotations that can't be read"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4]]), "polygons of fewer than 3 points"),
        (lambda c: c["annotations"][0].update(segmentation={"size": [48, 64], "counts": "~~"}), "RLE masks"),
        (lambda c: c["annotations"][0].update(segmentation=made.rle() | {"size": [4, 4]}), "RLE masks"),
        (lambda c: c["annotations"][0].update(id=5), "repeated annotation ids"),
        (lambda c: c["annotations"][0].update(bbox=[float("nan"), 0, 1, 1]), "boxes with NaN"),
        (lambda c: c["annotations"].append(7), "annotations that can't be read"),
        (lambda c: c["images"][0].update(file_name="../../etc/passwd"), "point outside the image folder"),
        (lambda c: c["images"][0].pop("file_name"), "image records that can't be read"),
        (lambda c: c["categories"].append({"id": 3, "name": "lion"}), "repeated category ids"),
        (lambda c: c["annotations"][0].update(iscrowd="0"), "annotation 0 of image 10: iscrowd is '0'"),
        (lambda c: c["annotations"][1].update(ignore="no"), "annotation 5 of image 10: ignore is 'no'"),
        (lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "5 annotations, all with 'iscrowd'"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path, change, words):
    content = made.content()
    change(content)
    with pytest.raises(InputError, match=r"mine\.json") as caught:
        convert_content(tmp_path, content)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", '{"images": [', "PK\x03\x04", "{" * 100_000, '{"images": 3}'])
def test_what_is_no_annotation_file_is_told(tmp_path, text):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"mine\.json"):
        convert_file(path)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 100) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner),
    max_leaves=6,
)


@given(
    st.sampled_from(["images", "annotations", "categories"]),
    st.sampled_from(
        ["id", "image_id", "category_id", "bbox", "segmentation", "area", "iscrowd", "file_name", "coco_url", "width",
         "name", "neg_category_ids", "not_exhaustive_category_ids", "ignore"]
    ),
    values,
)  # fmt: skip
def test_any_value_anywhere_is_taken_or_told(tmp_path_factory, where, key, value):
    content = made.content(rles=True)
    content[where][0][key] = value
    try:
        found, _ = convert_content(tmp_path_factory.mktemp("fuzz"), content)
    except InputError:
        return
    assert len(found["images"]) == 4


def test_images_are_found_the_way_they_are_stored(tmp_path):
    content = made.content()
    for image in content["images"]:
        image["coco_url"] = f"http://images.invalid/train2017/{image['id']}.jpg"
        del image["file_name"]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    for folder, expected in ((tmp_path / "flat", "10.jpg"), (tmp_path / "deep" / "train2017", "train2017/10.jpg")):
        folder.mkdir(parents=True)
        (folder / "10.jpg").touch()
        root = folder if folder.name == "flat" else folder.parent
        assert convert_file(path, image_root=str(root))[0]["images"][0]["file_name"] == expected


def test_a_converted_file_is_made_once_and_again_when_its_source_changes(tmp_path):
    path, root = tmp_path / "mine.json", str(tmp_path / "images")
    made.write(tmp_path, "mine", made.content())
    place, first = converted(str(path), root, None)
    stamp = (tmp_path / place).stat().st_mtime_ns
    assert converted(str(path), root, None) == (place, first)
    assert (tmp_path / place).stat().st_mtime_ns == stamp
    content = made.content()
    content["annotations"].pop(0)
    path.write_text(json.dumps(content))
    place, second = converted(str(path), root, None)
    assert second.instance_count != first.instance_count
    assert ConversionSummary.read(place) == second


def test_a_converted_file_that_was_cut_off_is_made_again(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(made.content()))
    place, first = converted(str(path), "nowhere", None)
    whole = (tmp_path / place).read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 5):
        (tmp_path / place).write_bytes(whole[:size])
        assert converted(str(path), "nowhere", None) == (place, first)
        assert (tmp_path / place).read_bytes() == whole


def test_in_a_folder_that_cannot_be_written_it_goes_to_the_cache(tmp_path, monkeypatch):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(made.content()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    import balanced_lvis.data.custom.conversion_cache as store

    real = store.replacing

    def refusing(place, *args):
        if not place.startswith(str(tmp_path / "cache")):
            raise PermissionError(13, "Permission denied")
        return real(place, *args)

    monkeypatch.setattr(store, "replacing", refusing)
    place, _ = converted(str(path), "nowhere", None)
    assert place.startswith(str(tmp_path / "cache"))
    assert ConversionSummary.read(place).num_images == 4


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the developers' shared data")
def test_real_annotations_keep_every_object(tmp_path):
    source = SHARED_DATA / "coco_tiny" / "annotations" / "instances_train2017.json"
    found, summary = convert_file(source, image_root=str(SHARED_DATA / "coco_tiny" / "train2017"))
    content = json.loads(source.read_text())
    kept = [a for a in content["annotations"] if not a["iscrowd"]]
    assert [
        (a["image_id"], a["category_id"], a["bbox"], a["area"], a["segmentation"]) for a in found["annotations"]
    ] == [(a["image_id"], a["category_id"], a["bbox"], a["area"], a["segmentation"]) for a in kept]
    assert (len(summary.class_names), summary.num_crowds, summary.num_rles) == (80, 6, 0)


AROUND = [[60.3, 40.2, 70.9, 41.1, 66.6, 55.5, 50.2, 44.4]]  # exceeds the image at the right and below
BOW = [[2.5, 3.5, 40.2, 30.1, 40.9, 2.2, 3.3, 29.8]]  # self-intersecting


@pytest.mark.parametrize(
    ("segmentation", "area"),
    [
        (made.square(3, 5, 16), 256),
        (made.square(-4, -8, 16), 12 * 8),
        (made.square(100_000, 5, 16), 0),
        (made.square(3, 5, 16) + made.square(11, 5, 16), 24 * 16),  # pixels of both count once
        (AROUND, None),
        (BOW, None),
        (AROUND + BOW, None),
        (made.rle(3, 5, 16), 256),
        (made.rle(3, 5, 16, compressed=True), 256),
    ],
)
@pytest.mark.parametrize("images_first", [True, False])
def test_a_missing_area_is_pycocotools_of_the_mask_in_the_image(tmp_path, segmentation, area, images_first):
    content = made.content()
    content["annotations"] = [made.annotation(1, 10, 7, area=None, segmentation=segmentation)]
    if not images_first:
        content = {"annotations": content.pop("annotations"), **content}
    found, _ = convert_content(tmp_path, content)
    if area is None:
        parts = [
            mask_util.decode(mask_util.frPyObjects([part], made.HEIGHT, made.WIDTH))[:, :, 0] for part in segmentation
        ]
        area = int(np.maximum.reduce(parts).sum())
    assert found["annotations"][0]["area"] == area


def test_a_missing_area_without_a_mask_is_the_boxs(tmp_path):
    content = made.content()
    content["annotations"] = [made.annotation(1, 10, 7, area=None, segmentation=None, bbox=[1.5, 2.25, 10.5, 4])]
    assert convert_content(tmp_path, content)[0]["annotations"][0]["area"] == 42.0


def test_an_ignored_object_is_in_no_count_and_known_to_the_evaluation(tmp_path):
    content = made.content()
    content["annotations"][0]["ignore"] = 1  # the only cup
    found, summary = convert_content(tmp_path, content)
    assert (summary.num_ignored, summary.num_crowds) == (1, 2)
    assert (summary.image_count, summary.instance_count) == ([1, 0, 1, 0], [1, 0, 1, 0])
    assert [a.get("ignore") for a in found["annotations"]] == [1, None, None]
    assert 7 not in by_id(found["images"])[10]["neg_category_ids"]
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(found))
    truth = LVIS(str(path))
    results = [
        {**{key: a[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.9} for a in found["annotations"]
    ]
    for kept in (results, results[1:]):  # found or not
        metrics, of_category = evaluate_on_lvis(truth, kept, "bbox")
        assert metrics["AP"] == pytest.approx(100)
        assert np.isnan(of_category[7])


@pytest.mark.parametrize("value", [0, False, None])
def test_flags_that_are_not_set_are_objects(tmp_path, value):
    content = made.content()
    for annotation in content["annotations"][:3]:
        annotation.update(iscrowd=value, ignore=value)
    assert convert_content(tmp_path, content)[1].instance_count == [1, 1, 1, 0]


def test_what_is_wrong_with_the_users_file_is_kept_in_its_own_ids(tmp_path):
    content = made.content(rles=True)
    for annotation in content["annotations"]:
        annotation["id"] += 1000
    content["annotations"][0]["bbox"] = [80, 8, 16, 16]
    _, summary = convert_content(tmp_path, content)
    (problem,) = summary.report.problems
    assert problem.kind == "box_off_image"
    assert "annotation 1000 of image 10" in problem.examples[0]


def test_other_spellings_of_paths_are_resolved(tmp_path):
    content = made.content()
    made.write(tmp_path, "mine", content)
    (tmp_path / "images" / "sub").mkdir()
    for image in content["images"]:
        name = image["file_name"]
        (tmp_path / "images" / name).rename(tmp_path / "images" / "sub" / f"a {name}")
        image["file_name"] = f"sub\\a%20{name}"
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    found, summary = convert_file(path, image_root=str(tmp_path / "images"))
    assert [image["file_name"] for image in found["images"]] == [f"sub/a {i}.jpg" for i in (1, 2, 3, 4)]
    assert summary.images_found and summary.report.count("path_respelled") == 4


def test_a_byte_order_mark_is_no_obstacle(tmp_path):
    path = tmp_path / "mine.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(made.content()).encode())
    assert convert_file(path)[1].num_images == 4


@pytest.mark.parametrize(
    "segmentation",
    [[[1, 2, 3]], [[0, 0, 3e9, 0, 3e9, 3e9]], [[0, 0, 1e300, 0, 1e300, 1e300]], {"size": [48, 64], "counts": "\x7f~"},
     {"size": [48, 64], "counts": [-5, 1 << 40]}, [["1", 2, 3, 4, 5, 6]], [[None] * 6], [[[1, 2]] * 6]],
)  # fmt: skip
def test_an_area_that_cannot_be_drawn_is_refused_and_not_tried(tmp_path, segmentation):
    content = made.content()
    content["annotations"].append(made.annotation(99, 10, 7, area=None, segmentation=segmentation))
    with pytest.raises(InputError, match=r"mine\.json"):
        convert_content(tmp_path, content)
