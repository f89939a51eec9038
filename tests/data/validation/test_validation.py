"""Every fault of an annotation file is found, counted and named; a valid file passes."""

import itertools
import json
import math
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balanced_lvis.data.annotations import json_stream
from balanced_lvis.data.validation import KINDS, Report, validate_annotations
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.findings import SHOWN
from tests.common import SHARED_DATA
from tests.data.validation.made import TRIANGLE, good, kinds, write


def faulty(tmp_path, change, **options):
    content = good()
    change(content)
    return validate_annotations(write(tmp_path, content), **options)


def annotation(**keys):
    """A change of the file's first annotation."""
    return lambda content: content["annotations"][0].update(keys)


def image(**keys):
    return lambda content: content["images"][0].update(keys)


def without(key, *names):
    return lambda content: [content[key][0].pop(name) for name in names]


def every(**keys):
    """A change of all of the file's annotations."""
    return lambda content: [one.update(keys) for one in content["annotations"]]


def repeated(key, **changes):
    return lambda content: content[key].append({**content[key][0], **changes})


def box(*values):
    return annotation(bbox=list(values))


def polygon(*values):
    return annotation(segmentation=[TRIANGLE, list(values)])


def rle(size, counts):
    return annotation(segmentation={"size": size, "counts": counts})


FAULTS = [
    ("malformed_image", image(id="7"), "number 1 id is '7'"),
    ("malformed_image", image(width="20"), "image 7: width is '20'"),
    ("malformed_image", image(width=0), "width is 0"),
    ("malformed_image", image(height=1.5), "height is 1.5"),
    ("malformed_image", image(id=10**30), "id is 1000"),
    ("malformed_image", without("images", "width"), "has no 'width'"),
    ("malformed_image", lambda c: c["images"].append(None), "number 4 is None"),
    ("malformed_image", image(file_name=3), "image 7: file_name is 3"),
    ("malformed_image", image(neg_category_ids=["a"]), "image 7: neg_category_ids is ['a']"),
    ("malformed_image", image(not_exhaustive_category_ids=1), "image 7: not_exhaustive_category_ids is 1"),
    ("malformed_image", without("images", "file_name", "coco_url"), "image 7: has no 'file_name'"),
    ("duplicate_image_id", repeated("images", file_name="other.jpg"), "7 (2 times)"),
    ("path_leaves_root", image(file_name="../7.jpg"), "'../7.jpg' of image 7 goes up with '..'"),
    ("path_leaves_root", image(file_name="a/../../7.jpg"), "goes up"),
    ("path_leaves_root", image(file_name="a\\..\\7.jpg"), "goes up"),
    ("path_leaves_root", image(file_name="/etc/passwd"), "is absolute"),
    ("path_leaves_root", image(file_name="C:/7.jpg"), "is absolute"),
    ("path_leaves_root", image(file_name="7\0.jpg"), "zero byte"),
    ("same_file", image(file_name="3.jpg"), "'3.jpg' (2 times)"),
    ("malformed_category", without("categories", "name"), "has no 'name'"),
    ("malformed_category", lambda c: c["categories"].append({"id": 2, "name": 2}), "name is 2"),
    ("duplicate_category_id", repeated("categories", name="cow"), "1 (2 times)"),
    ("duplicate_category_name", repeated("categories", id=2), "'cat' (2 times)"),
    ("malformed_annotation", without("annotations", "bbox"), "has no 'bbox'"),
    ("malformed_annotation", box(1, 2, 3), "bbox is [1, 2, 3]"),
    ("malformed_annotation", box(1, 2, 3, None), "bbox is"),
    ("malformed_annotation", box(1, 2, 3, 10**400), "bbox is"),
    ("malformed_annotation", polygon(1, 2, 3, 4, 5, 10**400), "polygon is"),
    ("malformed_annotation", annotation(segmentation=[1, 1, 9, 1, 9, 9]), "segmentation is [1, 1, 9, 1, 9, 9]"),
    ("malformed_annotation", annotation(segmentation=""), "segmentation is ''"),
    ("flag_invalid", annotation(iscrowd="0"), "annotation 1 of image 3: iscrowd is '0'"),
    ("flag_invalid", annotation(ignore="false"), "annotation 1 of image 3: ignore is 'false'"),
    ("flag_invalid", annotation(iscrowd=2), "iscrowd is 2"),
    ("flag_invalid", annotation(ignore=1.0), "ignore is 1.0"),
    ("flag_invalid", annotation(iscrowd=[]), "iscrowd is []"),
    ("no_objects", every(iscrowd=1), ""),
    (
        "no_objects",
        lambda c: [a.update({f: True}) for a, f in zip(c["annotations"], ("iscrowd", "ignore", "ignore"))],
        "",
    ),
    ("category_without_objects", lambda c: c["annotations"][1].update(ignore=1), "'dog' (1)"),
    ("object_again", repeated("annotations", id=12), "annotation 12 of image 3 repeats annotation 1"),
    ("object_again", repeated("annotations", id=12, bbox=[1, 1, 8, 7]), "annotation 12 of image 3"),
    ("object_again", repeated("annotations", id=12, segmentation=[[1, 1, 9, 9, 1, 9]]), "annotation 12 of image 3"),
    (
        "object_again",
        lambda c: (
            rle([10, 20], [0, 20, 180])(c),
            repeated("annotations", id=12, bbox=[0, 0, 2, 10])(c),
            box(0, 0, 2, 10)(c),
        ),
        "annotation 12 of image 3",
    ),
    ("malformed_annotation", annotation(image_id=None), "image_id is None"),
    ("malformed_annotation", annotation(segmentation="abc"), "segmentation is 'abc'"),
    ("malformed_annotation", polygon(1, 2, 3, 4, 5, "6"), "polygon is"),
    ("duplicate_annotation_id", repeated("annotations"), "1 (2 times)"),
    ("unknown_image_id", annotation(image_id=4), "4 of annotation 1"),
    ("unknown_category_id", annotation(category_id=2), "2 of annotation 1"),
    ("unknown_federated_id", image(neg_category_ids=[1, 2]), "2 of image 7"),
    ("unknown_federated_id", image(not_exhaustive_category_ids=[3]), "3 of image 7"),
    ("box_not_finite", box(1, 2, math.nan, 4), "annotation 1 of image 3"),
    ("box_not_finite", box(math.inf, 2, 3, 4), "annotation 1 of image 3"),
    ("box_negative_size", box(5, 5, -1, 2), "[5, 5, -1, 2]"),
    ("boxes_normalised", every(bbox=[0.1, 0.2, 0.5, 0.8]), "annotation 1 of image 3"),
    ("box_differs", box(1, 1, 8, 2), "annotation 1 of image 3: box 1, 1 to 9, 3, mask 1, 1 to 9, 9"),
    ("box_differs", rle([10, 20], [0, 10, 190]), "annotation 1 of image 3: box 1, 1 to 9, 9, mask 0, 0 to 1, 10"),
    ("box_off_image", box(20, 1, 5, 5), "annotation 1 of image 3, which is 20 x 10"),
    ("box_off_image", box(-5, 1, 5, 5), "annotation 1"),
    ("box_off_image", box(1e300, 1, 5, 5), "annotation 1"),
    ("box_zero_area", box(5, 5, 0, 2), "[5, 5, 0, 2]"),
    ("box_outside_image", box(15, 1, 7, 5), "annotation 1 of image 3, which is 20 x 10"),
    ("polygon_too_short", polygon(1, 2, 3, 4), "annotation 1 of image 3: 2 point(s)"),
    ("polygon_too_short", polygon(), "0 point(s)"),
    ("polygon_odd", polygon(1, 2, 3, 4, 5, 6, 7), "7 coordinates"),
    ("polygon_not_finite", polygon(1, 2, 3, 4, 5, math.nan), "annotation 1 of image 3"),
    ("polygon_outside_image", polygon(1, 2, 3, 4, 5, 12), "annotation 1 of image 3"),
    ("rle_undecodable", rle([10, 20], "~~~~"), "annotation 1 of image 3"),
    ("rle_undecodable", rle([10, 20], [100, 99]), "covers 199 pixels of 200"),
    ("rle_undecodable", rle([10], [10]), "size is [10]"),
    ("mask_empty", rle([10, 20], [200]), "annotation 1 of image 3"),
    ("rle_wrong_size", rle([20, 10], [0, 200]), "10 x 20, annotation 1 of image 3, which is 20 x 10"),
    ("segmentation_missing", without("annotations", "segmentation"), "annotation 1 of image 3"),
    ("segmentation_missing", annotation(segmentation=[]), "annotation 1 of image 3"),
    ("no_masks", lambda c: [a.pop("segmentation") for a in c["annotations"]], "annotation 1 of image 3"),
    ("area_invalid", annotation(area=-1), "annotation 1 of image 3: area is -1"),
    ("area_invalid", annotation(area=math.nan), "area is nan"),
    ("area_invalid", annotation(area="32"), "area is '32'"),
    ("negatives_empty", lambda c: [i.update(neg_category_ids=[]) for i in c["images"]], ""),
    ("negatives_empty", image(neg_category_ids=[]), ""),
    ("area_missing", without("annotations", "area"), "1 of 3"),
    ("no_images", lambda c: c.pop("images"), "no 'images'"),
    ("no_categories", lambda c: c.pop("categories"), "no 'categories'"),
]


@pytest.mark.parametrize(("kind", "change", "example"), FAULTS)
def test_a_fault_is_found_and_named(tmp_path, kind, change, example):
    report = faulty(tmp_path, change)
    # Annotations that lose their image or category are found, too.
    follow = {"unknown_image_id", "unknown_category_id"} if kind in (
        "malformed_image", "malformed_category", "no_images", "no_categories"
    ) else set()  # fmt: skip
    assert set(kinds(report)) - follow == {kind}
    problem = next(p for p in report.problems if p.kind == kind)
    assert example in "; ".join(problem.examples)
    assert report.ok == (KINDS[kind].severity == "warning")
    assert KINDS[kind].title in str(report)
    assert KINDS[kind].remedy in str(report)


def test_every_kind_has_a_test():
    of_files = {"not_json", "image_missing", "image_unreadable", "image_size_differs", "path_respelled"}  # below
    of_lvis = {"crowd_in_lvis", "not_federated"}
    assert {kind for kind, _, _ in FAULTS} | of_files | of_lvis == set(KINDS)


@pytest.mark.parametrize("order", list(itertools.permutations(("images", "categories", "annotations"))))
def test_a_good_file_has_no_problem_whatever_the_order_of_its_lists(tmp_path, order):
    content = good()
    report = validate_annotations(write(tmp_path, {"info": {}, **{key: content[key] for key in order}}))
    assert report.problems == ()
    assert (report.num_images, report.num_annotations, report.num_categories) == (3, 3, 2)
    faults = {key: content[key] for key in order}
    faults["annotations"][1]["bbox"] = [30, 1, 5, 5]
    faults["annotations"][2]["category_id"] = 5
    assert kinds(validate_annotations(write(tmp_path, faults))) == {"box_off_image": 1, "unknown_category_id": 1}


@pytest.mark.parametrize("name", ["lvis_val_100.json", "coco_tiny/annotations/instances_train2017.json"])
def test_real_annotations_have_no_problem(name):
    path = SHARED_DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    content = json.loads(path.read_text())
    root = SHARED_DATA / "coco_tiny" / "train2017" if "tiny" in name else None
    report = validate_annotations(path, root, read_images=True)
    # LVIS-0.5 has an image whose boxes are those of another one.
    assert kinds(report) == ({"box_differs": 13} if "lvis" in name else {})
    assert all("of image 179898" in example for problem in report.problems for example in problem.examples)
    assert report.num_annotations == len(content["annotations"])
    assert report.num_rles == sum(isinstance(a["segmentation"], dict) for a in content["annotations"])


@pytest.mark.parametrize("split", ["train", "val", "test_dev"])
def test_the_rendered_data_set_has_no_problem(rendered, split):
    path = rendered / "annotations" / f"rendered_{split}.json"
    assert validate_annotations(path, rendered, layout="lvis", read_images=True).problems == ()


def test_a_file_without_annotations_is_one_without_ground_truth(tmp_path):
    report = faulty(tmp_path, lambda c: c.pop("annotations"))
    assert report.ok
    assert report.num_annotations is None
    assert "no annotations" in str(report)
    assert faulty(tmp_path, lambda c: c["annotations"].clear()).num_annotations == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"not json", "Expecting"),
        (b"PK\x03\x04abc", "it is a zip archive"),
        (b"\x1f\x8babc", "it is gzipped"),
        (b"\n<html>404</html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"[]", "it is a list, as in a file of results"),
        (b'{"images": {}}', "its 'images' is not a list"),
        (b'{"images": [], "images": []}', "'images' twice"),
        (b'{"images": [1' + b"0" * 5000 + b"]}", ""),
        (b'{"x": ' + b"[" * 200_000, "nested too deeply"),
        (b'{"images": ["\xff\xfe"]}', "it is not UTF-8; save it as UTF-8"),
        (json.dumps(good()).replace("cat", "caf\u00e9").encode("latin-1"), "it is not UTF-8; save it as UTF-8"),
        (json.dumps(good()).encode("utf-16"), "it is not UTF-8; save it as UTF-8"),
        (json.dumps(good()).encode("utf-16-le"), "it is not UTF-8; save it as UTF-8"),
        (json.dumps(good()).encode("utf-32-be"), "it is not UTF-8; save it as UTF-8"),
        ('{"images": ["é'.encode()[:-1], "it is cut off within a character"),
    ],
)
def test_a_file_that_is_no_json_is_told_with_what_it_is(tmp_path, data, reason):
    path = tmp_path / "annotations.json"
    path.write_bytes(data)
    report = validate_annotations(path)
    assert not report.ok
    assert "not_json" in kinds(report) or not reason
    assert reason in str(report)


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="nowhere.json can't be read: No such file"):
        validate_annotations(tmp_path / "nowhere.json")


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_file_cut_off_anywhere_is_an_error(tmp_path_factory, data):
    text = json.dumps(good())
    path = tmp_path_factory.getbasetemp() / "cut.json"
    path.write_text(text[: data.draw(st.integers(0, len(text) - 1))])
    assert "not_json" in kinds(validate_annotations(path))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([10**400, -1, 0]),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_no_json_is_too_odd_for_a_report(tmp_path_factory, data):
    content = good()
    for _ in range(data.draw(st.integers(1, 3))):
        records = content[data.draw(st.sampled_from(sorted(content)))]
        place = data.draw(st.integers(0, len(records) - 1))
        record, value = records[place], data.draw(json_values)
        if isinstance(record, dict) and record and data.draw(st.booleans()):
            record[data.draw(st.sampled_from(sorted(record)))] = value
        else:
            records[place] = value
    path = write(tmp_path_factory.getbasetemp(), content)
    report = validate_annotations(path, path.parent)
    assert json.loads(json.dumps(report.to_dict())) is not None
    assert str(report)


def test_the_first_offenders_are_named_and_all_counted(tmp_path):
    def change(content):
        for i in range(20):
            content["annotations"].append({**content["annotations"][0], "id": 100 + i, "category_id": 4})

    report = faulty(tmp_path, change)
    problem = next(problem for problem in report.problems if problem.kind == "unknown_category_id")
    assert problem.count == 20
    assert len(problem.examples) == SHOWN
    assert problem.examples[0] == "4 of annotation 100"
    with pytest.raises(InputError, match=r"can't be used:\n  20 annotations of categories that are not in"):
        report.raise_errors()


def test_a_report_comes_back_from_json(tmp_path):
    report = faulty(tmp_path, box(5, 5, -1, 2))
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_warnings_raise_only_where_they_are_asked_for(tmp_path):
    report = faulty(tmp_path, without("annotations", "area"))
    report.raise_errors()
    with pytest.raises(InputError, match="without 'area'"):
        report.raise_errors(also=("area_missing",))


def test_what_is_parsed_at_a_time_is_bounded(tmp_path, monkeypatch):
    """Polygons, which make up most of a file, are not kept: a file takes less than a quarter of its size."""
    monkeypatch.setattr(json_stream, "_CHUNK", 1 << 14)
    content = good()
    first = {**content["annotations"][0], "segmentation": [TRIANGLE * 666]}
    content["annotations"] = [{**first, "id": i} for i in range(200)]
    path = write(tmp_path, content)
    tracemalloc.start()
    assert validate_annotations(path).ok
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 4


def test_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(good()).encode())
    assert validate_annotations(path).problems == ()


def test_flags_are_read_as_one_and_zero_and_as_true_and_false(tmp_path):
    for field, count in (("iscrowd", "num_crowds"), ("ignore", "num_ignored")):
        for value, flagged in ((0, 0), (False, 0), (None, 0), (1, 1), (True, 1)):
            report = faulty(tmp_path, annotation(**{field: value}))
            assert getattr(report, count) == flagged
            assert report.problems == ()


def test_crowds_are_refused_where_the_lvis_loader_would_train_on_them(tmp_path):
    assert kinds(faulty(tmp_path, annotation(iscrowd=1))) == {}
    report = faulty(tmp_path, annotation(iscrowd=1), layout="lvis")
    assert kinds(report) == {"crowd_in_lvis": 1, "not_federated": 3}
    assert not report.ok and "annotation 1 of image 3" in str(report)


def test_objects_of_one_box_in_other_images_or_categories_are_others(tmp_path):
    report = faulty(tmp_path, lambda c: [a.update(bbox=[2, 2, 7, 7]) for a in c["annotations"]])
    assert report.problems == ()
