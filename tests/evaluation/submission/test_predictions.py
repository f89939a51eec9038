"""Results of other programs: every number is kept, and what can't be evaluated is refused before it is."""

import itertools
import json
import math

import numpy as np
import pytest
from pycocotools import mask as mask_util

from balanced_lvis.evaluation import evaluate_detections, evaluate_on_lvis
from balanced_lvis.evaluation.lvis_api import LVIS
from balanced_lvis.evaluation.submission import ImageList, export_predictions, read_predictions, validate_submission
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.io import write_json
from tests.common import SHARED_DATA
from tests.evaluation.made import HEIGHT, WIDTH, box_mask, lvis_of, made_content

REAL = SHARED_DATA / "lvis_val_100.json"


def made_results(rng, api, images: int) -> list[dict]:
    """Annotations displaced, of all scores, in no order, with boxes of any precision."""
    results = []
    for annotation in api.load_anns(api.get_ann_ids(img_ids=sorted(api.imgs)[:images])):
        image = api.imgs[annotation["image_id"]]
        size = np.array([image["width"], image["height"]] * 2)
        for _ in range(3):
            x, y, w, h = np.array(annotation["bbox"]) + rng.normal(0, 0.03, 4) * np.tile(annotation["bbox"][2:], 2)
            box = np.array([x, y, max(w, 1), max(h, 1)]).clip(0, size).tolist()
            polygon = [x, y, x + w, y, x + w, y + h * 0.9, x, y + h]
            mask = mask_util.frPyObjects([polygon], image["height"], image["width"])[0]
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": annotation["category_id"],
                    "score": float(rng.random().__round__(2)),
                    "bbox": box,
                    "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()},
                }
            )
    rng.shuffle(results)
    return results


@pytest.mark.skipif(not REAL.is_file(), reason="needs the real annotations beside the checkout")
@pytest.mark.parametrize("left_out", [None, "bbox", "segmentation"])
def test_the_numbers_are_those_of_the_official_api(tmp_path, left_out):
    api = LVIS(str(REAL))
    results = made_results(np.random.default_rng(0), api, 40)
    results = [{key: value for key, value in result.items() if key != left_out} for result in results]
    write_json(tmp_path / "results.json", results)
    detections, tasks, _ = read_predictions(tmp_path / "results.json", ImageList(REAL), tmp_path / "store")
    assert tasks == {None: ("bbox", "segm"), "bbox": ("segm",), "segmentation": ("bbox",)}[left_out]
    for task in tasks:
        expected, _ = evaluate_on_lvis(api, results, task)
        assert expected["AP"] > 10
        for backend in ("fast", "official"):
            found, _ = evaluate_detections(LVIS(str(REAL)), detections, task, backend)
            np.testing.assert_array_equal(list(found.values()), list(expected.values()))


@pytest.fixture
def content(tmp_path):
    made = made_content([(1, 1, [0, 0, 5, 5])])
    write_json(tmp_path / "annotations.json", made)
    return made


def result(image=1, category=1, **changes) -> dict:
    mask = box_mask(np.array([0, 0, 5, 5]))
    segmentation = {"size": list(mask["size"]), "counts": mask["counts"].decode()}
    return {"image_id": image, "category_id": category, "score": 0.5, "segmentation": segmentation, **changes}


def read(tmp_path, results):
    (tmp_path / "x.json").write_text(json.dumps(results))
    return read_predictions(tmp_path / "x.json", ImageList(tmp_path / "annotations.json"), tmp_path / "store")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": 77}, "1 detections in images that are not in the dataset: number 2 of image 77, image_id 77"),
        ({"category": 77}, "1 detections of categories that are not in the dataset: number 2 of image 1"),
        ({"score": "high"}, "1 detections that can't be read: number 2 has a score of 'high'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(content, tmp_path, change, words):
    with pytest.raises(InputError) as caught:
        read(tmp_path, [result(), result(**change), result()])
    assert words in str(caught.value)


def test_more_than_300_of_an_image_are_cut_as_the_api_does(content, tmp_path):
    results = [result(category=1 + k % 4, score=k / 500) for k in range(400)]
    detections, tasks, report = read(tmp_path, results)
    assert report.count("too_many") == 1 and tasks == ("segm",)
    expected, _ = evaluate_on_lvis(lvis_of(content), results, "segm")
    found, _ = evaluate_detections(lvis_of(content), detections, "segm")
    np.testing.assert_array_equal(list(found.values()), list(expected.values()))


def test_no_detections_have_an_ap_of_0(content, tmp_path):
    detections, tasks, _ = read(tmp_path, [])
    assert tasks == ("bbox", "segm")
    for task, backend in itertools.product(tasks, ("fast", "official")):
        metrics, per_category = evaluate_detections(lvis_of(content), detections, task, backend)
        assert metrics["AP"] == 0 and per_category[1] == 0 and math.isnan(per_category[2])


def warnings_of(caplog, tmp_path, results) -> str:
    caplog.clear()
    read(tmp_path, results)
    return "\n".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")


def test_boxes_beside_masks_are_no_warning_where_areas_are_the_masks(content, tmp_path, caplog):
    both = [result(image, bbox=[0, 0, 5, 5], score=image / 10) for image in (1, 2, 3, 4)]
    assert warnings_of(caplog, tmp_path, both) == ""
    write_json(tmp_path / "both.json", both)  # but a submission with both is wrong
    report = validate_submission(tmp_path / "both.json", ImageList(tmp_path / "annotations.json"))
    assert report.count("bbox_in_mask_file") == 4


def boxes_only(boxes) -> list[dict]:
    images = itertools.cycle((1, 2, 3, 4))
    return [{"image_id": next(images), "category_id": 1, "bbox": list(box), "score": 0.5} for box in boxes]


def drawn_boxes(number=200) -> np.ndarray:
    """(number, 4) x, y, width, height inside the images of 32 x 24."""
    rng = np.random.default_rng(0)
    size = rng.uniform(1, 20, (number, 2))
    return np.concatenate([rng.uniform(0, 1, (number, 2)) * ([WIDTH, HEIGHT] - size), size], axis=1)


def test_boxes_that_are_two_corners_get_a_hint(content, tmp_path, caplog):
    boxes = drawn_boxes()
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    words = warnings_of(caplog, tmp_path, boxes_only(corners.tolist()))
    assert "boxes that exceed their image as [x, y, width, height], while all boxes fit as two corners" in words
    assert "If they are [x1, y1, x2, y2], write [x1, y1, x2 - x1, y2 - y1]." in words
    masks = [result(1, bbox=corner) for corner in corners.tolist()]  # and in a file with masks too
    assert "fit as two corners" in warnings_of(caplog, tmp_path, masks)


@pytest.mark.parametrize(
    "boxes",
    [
        drawn_boxes(),
        drawn_boxes() * [1, 1, 1.4, 1.4],  # of a program that doesn't clip them
        drawn_boxes() * [0, 0, 1, 1],  # all at the corner of their image, where both readings fit
        [*([[20, 15, 25, 20]] * 9), [20, 15, 5, 5]],
    ],
    ids=["sound", "not clipped", "at the origin", "one is no pair of corners"],
)
def test_other_boxes_get_none(content, tmp_path, caplog, boxes):
    assert "corners" not in warnings_of(caplog, tmp_path, boxes_only(np.asarray(boxes, float).tolist()))


def test_a_results_file_becomes_a_submission_of_the_same_numbers(content, tmp_path):
    results = [result(category=1 + k % 4, score=k / 500, bbox=[k % 9, 0.1, 5.3, 5]) for k in range(400)]
    write_json(tmp_path / "x.json", results)
    images = ImageList(tmp_path / "annotations.json")
    for task, written in zip(("segm", "bbox"), export_predictions(tmp_path / "x.json", images, tmp_path / "made")):
        assert (written.num_detections, written.over_limit) == (300, 100)
        assert validate_submission(written.path, images).ok
        records = json.loads(written.path.read_text())
        found, _ = evaluate_on_lvis(lvis_of(content), records, task)
        expected, _ = evaluate_on_lvis(lvis_of(content), results, task)
        np.testing.assert_array_equal(list(found.values()), list(expected.values()))
    assert sorted(path.name for path in tmp_path.glob("made*")) == ["made_bbox.json", "made_segm.json"]
    write_json(tmp_path / "x.json", [])
    with pytest.raises(InputError, match="no detection"):
        export_predictions(tmp_path / "x.json", images, tmp_path / "made")
