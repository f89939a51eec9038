"""The evaluator as inference drives it: on one process and on two with uneven shards."""

import errno
import json
import logging
import math
import os

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from balanced_lvis.evaluation import LVISEvaluator, detection_store, evaluate_on_lvis, gathering
from balanced_lvis.evaluation.model_outputs import instances_to_arrays
from balanced_lvis.utils import checksums
from balanced_lvis.utils.errors import InputError, StorageError
from balanced_lvis.utils.io import write_json
from tests.engine.processes.test_ranks import on_ranks
from tests.evaluation.made import HEIGHT, WIDTH, lvis_of, made_content, stored

NAME = "evaluator_test"
IMAGES = 9
RESULTS = "lvis_instances_results.json"


def register(folder, content=None, **metadata):
    """The test's data set, anew."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        if NAME in catalog.list():
            catalog.remove(NAME)
    DatasetCatalog.register(NAME, list)
    if content is not None:
        write_json(folder / "annotations.json", content)
    MetadataCatalog.get(NAME).set(evaluator_type="lvis", json_file=str(folder / "annotations.json"), **metadata)


@pytest.fixture
def content(tmp_path):
    rng = np.random.default_rng(0)
    objects = [(int(i), int(c), box) for i, c, box in zip(*drawn(rng, 30))]
    made = made_content(objects, [(i, 1 + i % 4) for i in range(1, IMAGES)], [(2, 1)], images=IMAGES)
    register(tmp_path, made)
    return made


def drawn(rng, number):
    boxes = rng.integers([0, 0, 2, 2], [20, 12, 12, 12], (number, 4)).tolist()
    return rng.integers(1, IMAGES + 1, number), rng.integers(1, 5, number), boxes


def output_of(image_id: int, with_masks=True) -> dict:
    """A model's output for an image: 0 to 12 detections."""
    rng = np.random.default_rng(image_id)
    number = int(rng.integers(0, 13))
    _, classes, boxes = drawn(rng, number)
    boxes = (
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        + torch.tensor(rng.random((number, 4)), dtype=torch.float32) / 3
    )
    boxes[:, 2:] += boxes[:, :2]
    found = Instances((HEIGHT, WIDTH))
    found.pred_boxes = Boxes(boxes)
    found.scores = torch.tensor(rng.random(number), dtype=torch.float32).round(decimals=1)
    found.pred_classes = torch.tensor(classes - 1)
    if with_masks:
        y, x = torch.arange(HEIGHT)[None, :, None], torch.arange(WIDTH)[None, None, :]
        x0, y0, x1, y1 = boxes.round().unbind(1)
        inside = [x >= x0[:, None, None], y >= y0[:, None, None], x < x1[:, None, None], y < y1[:, None, None]]
        found.pred_masks = inside[0] & inside[1] & inside[2] & inside[3]
    return {"instances": found}


def run(folder, image_ids, **options):
    """Evaluate the model's outputs for these images."""
    evaluator = LVISEvaluator(NAME, str(folder) if folder else None, **options)
    evaluator.reset()
    for image_id in image_ids:
        evaluator.process([{"image_id": image_id}], [output_of(image_id)])
    return evaluator.evaluate()


def as_detectron2_writes(image_ids) -> list[dict]:
    """The results file's content before compact arrays: Detectron2's records with the file's category ids."""
    records = [record for i in image_ids for record in instances_to_coco_json(output_of(i)["instances"], i)]
    return [{**record, "category_id": record["category_id"] + 1} for record in records]


@pytest.mark.parametrize("backend", ["fast", "official"])
def test_numbers_and_files_are_those_of_detectron2s_records(content, tmp_path, backend):
    image_ids = [3, 1, 2, 9, 5, 4]
    results = run(tmp_path / "out", image_ids, backend=backend)
    records = as_detectron2_writes(image_ids)
    assert (tmp_path / "out" / RESULTS).read_text() == json.dumps(records) + "\n"
    rows = json.loads((tmp_path / "out" / "per_category_ap.json").read_text())
    assert [row["id"] for row in rows] == [1, 2, 3, 4]
    for task in ("bbox", "segm"):
        metrics, per_category = evaluate_on_lvis(lvis_of(content), records, task)
        np.testing.assert_array_equal(list(results[task].values()), list(metrics.values()))
        assert {row["id"]: row[task] for row in rows} == per_category
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [RESULTS, "per_category_ap.json"]


@pytest.mark.parametrize("name", [detection_store.MASKS, "scores"])
def test_stored_detections_that_lost_bytes_are_an_error(content, tmp_path, name):
    evaluator = LVISEvaluator(NAME, str(tmp_path / "out"))
    evaluator.reset()
    for image_id in range(1, IMAGES + 1):
        evaluator.process([{"image_id": image_id}], [output_of(image_id)])
    evaluator._writer.close()
    path = evaluator._writer.folder / name
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StorageError, match=f"{name} has .* bytes instead of"):
        evaluator.evaluate()


# ------------------------------------------------------------------ two processes


def gather_damaged(folder):
    """In each of two processes: rank 1's scores are altered after they were written."""
    rank = comm.get_rank()
    writer = detection_store.DetectionWriter(folder / str(rank))
    writer.write(rank, [[0, 0, 5, 5]], [0.5], [0])
    writer.close()
    if rank == 1:
        (folder / "1" / "scores").write_bytes(bytes(8))
    try:
        gathering.gather_on_main(folder / str(rank))
    except StorageError as error:
        (folder / "error.txt").write_text(str(error))


def test_what_another_process_stored_is_checked_when_it_is_received(tmp_path):
    on_ranks(2, tmp_path, gather_damaged, tmp_path)
    assert "scores of rank 1" in (tmp_path / "error.txt").read_text()


SHARDS = {"uneven": ([3, 1, 2, 9, 5], [4, 7]), "last_empty": ([3, 1, 2], []), "first_empty": ([], [3, 1])}


def run_shards(folder):
    """In each of two processes."""
    gathering.SEND_BYTES = 100  # many pieces
    register(folder)
    for name, shards in SHARDS.items():
        results = run(folder / name, shards[comm.get_rank()])
        (folder / f"{name}_{comm.get_rank()}.json").write_text(json.dumps(results))


def test_two_processes_find_what_one_finds_in_the_same_order(content, tmp_path):
    on_ranks(2, tmp_path, run_shards, tmp_path)
    for name, shards in SHARDS.items():
        expected = run(tmp_path / "one", [*shards[0], *shards[1]])
        assert (tmp_path / f"{name}_0.json").read_text() == json.dumps(expected)
        assert (tmp_path / f"{name}_1.json").read_text() == "null"
        for file in (RESULTS, "per_category_ap.json"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "one" / file).read_bytes()
        assert len(list((tmp_path / name).iterdir())) == 2


# ------------------------------------------------------------------ special cases


def test_without_an_output_folder_nothing_stays(content, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with_files = run(tmp_path / "out", [1, 2, 3])
    assert json.dumps(run(None, [1, 2, 3])) == json.dumps(with_files)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_a_killed_run_left_is_not_evaluated(content, tmp_path):
    killed = LVISEvaluator(NAME, str(tmp_path / "out"))
    killed.reset()
    killed.process([{"image_id": 9}], [output_of(9)])
    killed._writer.close()
    expected = run(tmp_path / "other", [1, 2])
    assert json.dumps(run(tmp_path / "out", [1, 2])) == json.dumps(expected)


def test_reset_begins_anew(content, tmp_path):
    evaluator = LVISEvaluator(NAME, str(tmp_path / "out"))
    evaluator.reset()
    evaluator.process([{"image_id": 9}], [output_of(9)])
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [output_of(1)])
    evaluator.evaluate()
    assert {r["image_id"] for r in json.loads((tmp_path / "out" / RESULTS).read_text())} == {1}


@pytest.mark.parametrize("backend", ["fast", "official"])
def test_a_model_that_detects_nothing_scores_0(content, tmp_path, caplog, backend):
    evaluator = LVISEvaluator(NAME, str(tmp_path / "out"), backend=backend)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": output_of(1)["instances"][:0]}])
    with caplog.at_level(logging.WARNING):
        results = evaluator.evaluate()
    assert list(results) == ["bbox", "segm"]
    assert "no detections in 1 images" in caplog.text
    absent = {metric for metric, value in results["bbox"].items() if math.isnan(value)}
    for task in ("bbox", "segm"):  # 0 where there is something to find, no value where there isn't
        assert {metric for metric, value in results[task].items() if math.isnan(value)} == absent
        assert all(value == 0 for metric, value in results[task].items() if metric not in absent)
    present = {annotation["category_id"] for annotation in content["annotations"]}
    for row in json.loads((tmp_path / "out" / "per_category_ap.json").read_text()):
        assert row["bbox"] == row["segm"] == (0 if row["id"] in present else None)


def test_a_box_only_model_that_detects_nothing_has_no_masks(content, tmp_path):
    evaluator = LVISEvaluator(NAME, str(tmp_path / "out"))
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": output_of(1, with_masks=False)["instances"][:0]}])
    assert list(evaluator.evaluate()) == ["bbox"]


@pytest.mark.parametrize("backend", ["fast", "official"])
def test_a_category_of_which_nothing_is_detected_has_an_ap_of_0(tmp_path, backend):
    box = [2, 2, 9, 9]
    register(tmp_path, made_content([(1, 1, box), (1, 2, box)], images=IMAGES))
    found = Instances((HEIGHT, WIDTH))
    found.pred_boxes, found.scores = Boxes(torch.tensor([[2.0, 2.0, 11.0, 11.0]])), torch.ones(1)
    found.pred_classes, found.pred_masks = torch.zeros(1, dtype=torch.int64), torch.zeros(1, HEIGHT, WIDTH).bool()
    found.pred_masks[0, 2:11, 2:11] = True
    evaluator = LVISEvaluator(NAME, str(tmp_path / "out"), backend=backend)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    results = evaluator.evaluate()
    rows = json.loads((tmp_path / "out" / "per_category_ap.json").read_text())
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(50)
        assert [row[task] for row in rows] == [pytest.approx(100), 0, None, None]


@pytest.mark.parametrize("field", ["neg_category_ids", "not_exhaustive_category_ids"])
def test_an_image_without_its_lists_of_categories_is_named(tmp_path, field):
    content = made_content([(1, 1, [2, 2, 9, 9])], images=IMAGES)
    content["images"][1][field] = None
    register(tmp_path, content)
    with pytest.raises(InputError, match=f"image 2 has no list '{field}'; add it"):
        run(tmp_path / "out", [1])


def test_masks_of_a_dataset_without_masks_are_not_evaluated(tmp_path, caplog):
    content = made_content([(1, 1, [2, 2, 9, 9]), (2, 2, [2, 2, 9, 9])], images=IMAGES)
    del content["annotations"][1]["segmentation"]
    register(tmp_path, content)
    assert list(run(tmp_path / "out", [1, 2])) == ["bbox"]
    assert f"1 of 2 annotations of {NAME} have no mask: only boxes are evaluated" in caplog.text
    with pytest.raises(InputError, match="1 of 2 annotations of .* have no mask, so masks can't be evaluated"):
        LVISEvaluator(NAME).evaluate_stored(stored(tmp_path / "store", [(1, 1, [2, 2, 9, 9], 0.5)]), ("segm",))


def test_no_image_at_all_is_no_result(content, tmp_path):
    assert run(tmp_path / "out", []) == {}


def test_a_box_only_model_is_evaluated_on_boxes(content, tmp_path):
    evaluator = LVISEvaluator(NAME, str(tmp_path / "out"))
    evaluator.reset()
    for image_id in (1, 2, 3):
        evaluator.process([{"image_id": image_id}], [output_of(image_id, with_masks=False)])
    assert list(evaluator.evaluate()) == ["bbox"]
    assert "segm" not in json.loads((tmp_path / "out" / "per_category_ap.json").read_text())[0]


@pytest.mark.parametrize("with_key", [True, False])
def test_without_annotations_predictions_are_saved(tmp_path, with_key):
    content = made_content([], images=IMAGES)
    if not with_key:  # as in test-dev's file
        del content["annotations"]
    register(tmp_path, content)
    assert run(tmp_path / "out", [1, 2]) == {}
    assert json.loads((tmp_path / "out" / RESULTS).read_text()) == as_detectron2_writes([1, 2])
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_category_ids_of_the_data_set_are_used(content, tmp_path):
    ids = {1: 40, 2: 10, 3: 30, 4: 20}
    for record in (*content["annotations"], *content["categories"]):
        key = "category_id" if "category_id" in record else "id"
        record[key] = ids[record[key]]
    for image in content["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [ids[c] for c in image[key]]
    plain = run(tmp_path / "plain", [1, 2, 3])
    register(tmp_path, content, thing_dataset_id_to_contiguous_id={ids[index + 1]: index for index in range(4)})
    assert json.dumps(run(tmp_path / "mapped", [1, 2, 3])) == json.dumps(plain)
    records = as_detectron2_writes([1, 2, 3])
    found = json.loads((tmp_path / "mapped" / RESULTS).read_text())
    assert [r["category_id"] for r in found] == [ids[r["category_id"]] for r in records]


def test_a_category_without_ground_truth_has_no_ap(tmp_path):
    register(tmp_path, made_content([(1, 1, [2, 2, 9, 9])], images=IMAGES))
    results = run(tmp_path / "out", [1, 2])
    rows = json.loads((tmp_path / "out" / "per_category_ap.json").read_text())
    assert [row["bbox"] is None for row in rows] == [False, True, True, True]
    assert math.isnan(results["bbox"]["APr"])


def test_a_model_without_instances_is_refused(content, tmp_path):
    evaluator = LVISEvaluator(NAME, str(tmp_path / "out"))
    evaluator.reset()
    with pytest.raises(InputError, match="returns proposals instead of instances"):
        evaluator.process([{"image_id": 1}], [{"proposals": None}])


def test_an_unknown_back_end_is_refused(content):
    with pytest.raises(InputError, match="LVIS_BACKEND is 'quick'"):
        LVISEvaluator(NAME, backend="quick")


def test_an_output_keeps_its_floats():
    found = output_of(2)["instances"]
    boxes, scores, classes, rles = instances_to_arrays(found)
    records = instances_to_coco_json(found, 2)
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [r["bbox"] for r in records]
    assert scores.tolist() == [r["score"] for r in records]
    assert classes.tolist() == [r["category_id"] for r in records]
    assert rles == [r["segmentation"] for r in records]


def test_nothing_stays_on_a_full_disk(tmp_path, monkeypatch):
    register(tmp_path, made_content([(1, 1, [2, 2, 9, 9])], images=IMAGES))
    evaluator = LVISEvaluator(NAME, str(tmp_path / "out"))
    evaluator.reset()

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checksums, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        evaluator.evaluate()
    assert [path.name for path in (tmp_path / "out").iterdir()] == []
