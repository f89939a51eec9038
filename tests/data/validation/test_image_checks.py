"""Missing, broken, resized and respelled images of an annotation file are found."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from balanced_lvis.data.annotations.annotation_reader import RecordError, read_image
from balanced_lvis.data.images.image_paths import other_spellings
from balanced_lvis.data.validation import image_path, missing_images, path_problem, validate_annotations
from tests.data.turned import save_turned
from tests.data.validation.made import federated, good, kinds, write


@pytest.fixture
def photographs(tmp_path):
    for i in (3, 5, 7):
        Image.new("RGB", (20, 10), (i, 0, 0)).save(tmp_path / f"{i}.jpg")
    return tmp_path


def test_images_that_are_there_pass(photographs):
    path = write(photographs, good())
    assert validate_annotations(path, photographs, read_images=True).problems == ()


def test_missing_images_are_counted_and_named(photographs):
    (photographs / "3.jpg").unlink()
    (photographs / "7.jpg").unlink()
    (photographs / "7.jpg").mkdir()  # a folder is not an image
    report = validate_annotations(write(photographs, good()), photographs)
    assert kinds(report) == {"image_missing": 2}
    assert report.problems[0].examples == (str(photographs / "7.jpg"), str(photographs / "3.jpg"))


def test_lvis_images_are_looked_for_in_the_folder_of_coco_url(photographs):
    path = write(photographs, federated(good()))
    assert validate_annotations(path, photographs, layout="lvis").count("image_missing") == 3
    (photographs / "train2017").symlink_to(photographs)
    report = validate_annotations(path, photographs, layout="lvis")
    assert report.problems == ()
    assert report.num_images_of == {"train2017": 3}


def test_unreadable_and_resized_images_are_found_when_they_are_read(photographs):
    (photographs / "3.jpg").write_bytes((photographs / "5.jpg").read_bytes()[:-200])
    (photographs / "5.jpg").write_bytes(b"")
    Image.new("L", (10, 20)).save(photographs / "7.jpg")
    path = write(photographs, good())
    assert validate_annotations(path, photographs).problems == ()
    report = validate_annotations(path, photographs, read_images=True)
    assert kinds(report) == {"image_unreadable": 2, "image_size_differs": 1}
    assert "is 10 x 20 pixels, but annotated as 20 x 10" in str(report)


def test_a_turned_photograph_has_the_size_that_it_is_shown_in(photographs):
    save_turned(photographs / "7.jpg", Image.new("RGB", (10, 20)), 6)
    assert validate_annotations(write(photographs, good()), photographs, read_images=True).problems == ()


def test_what_training_reads_is_no_problem_as_photographs_annotated_unturned_and_large_ones(photographs, monkeypatch):
    save_turned(photographs / "7.jpg", Image.new("RGB", (20, 10)), 6)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)  # Pillow warns above half of it, and refuses twice as many
    assert validate_annotations(write(photographs, good()), photographs, read_images=True).problems == ()


def test_an_image_outside_the_folder_is_not_even_looked_for(photographs, tmp_path):
    content = good()
    content["images"][0]["file_name"] = "../7.jpg"
    folder = photographs / "below"
    folder.mkdir()
    report = validate_annotations(write(tmp_path, content), folder)
    assert kinds(report) == {"path_leaves_root": 1, "image_missing": 2}


@given(st.lists(st.sampled_from("abcdef"), unique=True), st.lists(st.sampled_from(["x/a", "x/b", "y/a", "c", "z/q/r"])))
@settings(deadline=None, max_examples=30)
def test_missing_images_are_those_that_are_no_files(tmp_path_factory, there, asked):
    root = tmp_path_factory.mktemp("images")
    for name in there:
        for folder in ("x", "."):
            (root / folder).mkdir(exist_ok=True)
            (root / folder / name).touch()
    paths = [str(root / name) for name in asked]
    assert missing_images(paths) == [i for i, name in enumerate(asked) if not (root / name).is_file()]


def test_a_path_is_read_as_detectron2s_loader_of_that_format_does():
    def path(layout=None, **names):
        return image_path(read_image({"id": 1, "width": 2, "height": 3, **names}), layout)

    names = {"file_name": "a.jpg", "coco_url": "http://x/train2017/b.jpg"}
    assert path(**names) == path("coco", **names) == "a.jpg"
    assert path("lvis", **names) == "train2017/b.jpg"
    for none in (None, ""):  # as CVAT writes
        assert path(**{**names, "file_name": none}) == "train2017/b.jpg"
        assert path("lvis", **{**names, "coco_url": none}) == "a.jpg"
    for wrong in ({}, {"coco_url": "b.jpg"}, {"file_name": ""}):
        with pytest.raises(RecordError):
            path(**wrong)


@pytest.mark.parametrize("written", ["sub\\7.jpg", "sub/%37.jpg", "sub%5C7.jpg", "sub%2f7.jpg"])
def test_a_path_that_a_file_has_in_another_spelling_is_found_and_reported_once(photographs, written):
    (photographs / "sub").mkdir()
    (photographs / "7.jpg").rename(photographs / "sub" / "7.jpg")
    content = good()
    content["images"][0]["file_name"] = written
    report = validate_annotations(write(photographs, content), photographs, read_images=True)
    assert kinds(report) == {"path_respelled": 1}
    assert f"{written!r} is 'sub/7.jpg'" in str(report)


def test_a_name_that_a_file_has_is_never_decoded(photographs):
    (photographs / "7.jpg").rename(photographs / "a%20b.jpg")
    (photographs / "3.jpg").rename(photographs / "a b.jpg")
    content = good()
    content["images"][0]["file_name"], content["images"][1]["file_name"] = "a%20b.jpg", "a b.jpg"
    assert validate_annotations(write(photographs, content), photographs).problems == ()


def test_an_accent_is_found_however_it_is_composed(photographs):
    (photographs / "7.jpg").rename(photographs / "caf\u00e9.jpg")
    content = good()
    content["images"][0]["file_name"] = "cafe\u0301.jpg"
    assert kinds(validate_annotations(write(photographs, content), photographs)) == {"path_respelled": 1}


@pytest.mark.parametrize("path", ["%2e%2e/7.jpg", "a/%2e%2e%2f%2e%2e/7.jpg", "%2Fetc/passwd", "%00.jpg", "a%5C..%5C7"])
def test_no_spelling_leaves_the_folder(path):
    assert other_spellings(path) == []


@given(st.lists(st.sampled_from(["a", "b.jpg", "..", ".", "...", "a..b"]), min_size=1, max_size=5).map("/".join))
def test_a_path_is_refused_exactly_if_it_goes_up(path):
    assert bool(path_problem(path)) == (".." in path.split("/"))
