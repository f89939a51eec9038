"""The evaluator of several settings, against the evaluator of each setting alone."""

import errno
import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from balanced_lvis.evaluation import LVISEvaluator
from balanced_lvis.evaluation.grid_evaluator import GridEvaluator
from balanced_lvis.evaluation.model_outputs import at_output_size
from balanced_lvis.modeling.grid_detector import GridDetections, Selection
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.io import write_json
from tests.engine.processes.test_ranks import on_ranks
from tests.evaluation.made import HEIGHT, WIDTH, made_content

NAME, IMAGES, SETTINGS, M = "grid_evaluator_test", 6, 3, 5
RECORD = {"height": HEIGHT, "width": WIDTH}


@pytest.fixture
def content(tmp_path, own_catalogs):
    rng = np.random.default_rng(0)
    objects = [
        (int(rng.integers(1, IMAGES + 1)), int(rng.integers(1, 5)), [int(x), int(y), 9, 9])
        for x, y in rng.integers(0, 14, (30, 2))
    ]
    made = made_content(objects, [(i, 1 + i % 4) for i in range(1, IMAGES + 1)], images=IMAGES)
    register(tmp_path, made)
    return made


def register(folder, content=None):
    if content is not None:
        write_json(folder / "annotations.json", content)
    if NAME not in DatasetCatalog:
        DatasetCatalog.register(NAME, list)
    MetadataCatalog.get(NAME).set(evaluator_type="lvis", json_file=str(folder / "annotations.json"))


def output_of(image_id: int) -> GridDetections:
    """At half the output size. Some regions are empty, one is used by no setting."""
    generator = torch.Generator().manual_seed(image_id)
    number = image_id * 3 % 10
    corner = torch.rand(number, 2, generator=generator) * torch.tensor([WIDTH / 3, HEIGHT / 3])
    side = (torch.randint(0, 3, (number, 1), generator=generator) > 0) * 5.0
    regions = Instances((HEIGHT // 2, WIDTH // 2))
    regions.pred_boxes = Boxes(torch.cat([corner, corner + side], 1))
    regions.pred_classes = torch.zeros(number, dtype=torch.int64)
    regions.pred_masks = torch.rand(number, 1, M, M, generator=generator).sqrt()
    selections = []
    for setting in range(SETTINGS):
        order = torch.randperm(number, generator=generator)[: max(0, number - setting - 1)]
        scores = torch.rand(len(order), generator=generator).round(decimals=1).sort(descending=True).values
        classes = torch.randint(0, 4, (len(order),), generator=generator)
        selections.append(Selection(order, scores, classes))
    return GridDetections(regions, selections)


def alone(image_id: int, setting: int) -> dict:
    """The output of a model with one setting."""
    regions, (rows, scores, classes) = output_of(image_id).regions, output_of(image_id).selections[setting]
    found = Instances(regions.image_size, pred_boxes=regions.pred_boxes[rows], scores=scores, pred_classes=classes)
    found.pred_masks = regions.pred_masks[rows]
    return {"instances": at_output_size(found, RECORD)}


def run_grid(folder, image_ids) -> GridEvaluator:
    evaluator = GridEvaluator(NAME, folder, SETTINGS)
    evaluator.reset()
    for image_id in image_ids:
        evaluator.process([{"image_id": image_id, **RECORD}], [output_of(image_id)])
    evaluator.evaluate()
    return evaluator


def expected_of(setting: int, image_ids) -> dict:
    evaluator = LVISEvaluator(NAME, distributed=False)
    evaluator.reset()
    for image_id in image_ids:
        evaluator.process([{"image_id": image_id}], [alone(image_id, setting)])
    return evaluator.evaluate()


def test_metrics_are_those_of_each_setting_alone(content, tmp_path):
    image_ids = [4, 1, 6, 2, 3, 5]
    dropped = sum(int((output_of(i).regions.pred_boxes.area() == 0).sum()) for i in image_ids)
    assert dropped > 3  # empty boxes, whose detections are dropped with them
    evaluator = run_grid(tmp_path / "grid", image_ids)
    found = [evaluator.metrics(setting) for setting in range(SETTINGS)]
    for setting, results in enumerate(found):
        np.testing.assert_equal(results, expected_of(setting, image_ids))
    assert found[0]["bbox"]["AP"] > 0 and found[0] != found[1]
    evaluator.close()
    evaluator.close()
    assert not (tmp_path / "grid").exists()


def test_metrics_of_some_images_are_those_of_a_dataset_of_them(content, tmp_path):
    evaluator = run_grid(tmp_path / "grid", range(1, IMAGES + 1))
    kept = [2, 3, 6]
    part = {
        "images": [image for image in content["images"] if image["id"] in kept],
        "annotations": [one for one in content["annotations"] if one["image_id"] in kept],
    }
    found = [evaluator.metrics(setting, kept) for setting in range(SETTINGS)]
    assert found[0] != evaluator.metrics(0)
    register(tmp_path, {**content, **part})
    for setting, results in enumerate(found):
        np.testing.assert_equal(results, expected_of(setting, kept))


def test_detections_that_are_not_selected_do_not_change_metrics(content, tmp_path):
    evaluator = run_grid(tmp_path / "grid", range(1, IMAGES + 1))
    expected = [evaluator.metrics(setting) for setting in range(SETTINGS)]
    select = evaluator.judged_categories()
    evaluator.reset()
    dropped = []
    for image_id in range(1, IMAGES + 1):
        regions, selections = output_of(image_id)
        kept = [select(image_id, each.classes) for each in selections]
        dropped += [int((~rows).sum()) for rows in kept]
        selections = [Selection(*(part[rows] for part in each)) for each, rows in zip(selections, kept)]
        evaluator.process([{"image_id": image_id, **RECORD}], [GridDetections(regions, selections)])
    evaluator.evaluate()
    assert sum(dropped) > 5
    np.testing.assert_equal([evaluator.metrics(setting) for setting in range(SETTINGS)], expected)


@pytest.mark.parametrize("ids", [None, [3, 1, 4, 2]])
def test_selected_are_categories_with_annotations_and_those_listed_as_absent(tmp_path, own_catalogs, ids):
    register(tmp_path, made_content([(1, 2, [0, 0, 9, 9])], [(1, 3), (2, 4)], images=IMAGES))
    if ids:
        MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id = {i: index for index, i in enumerate(ids)}
    select = GridEvaluator(NAME, tmp_path / "grid", 1).judged_categories()
    category_ids = np.array(ids or [1, 2, 3, 4])
    for image_id, judged in ((1, {2, 3}), (2, {4}), (3, set())):
        kept = select(image_id, torch.arange(4)).numpy()
        assert set(category_ids[kept].tolist()) == judged
    assert select(99, torch.arange(4)).all()  # an image that is not in the file: the evaluation reports it
    many = torch.zeros(301, dtype=torch.int64)
    assert select(3, many).all() and not select(3, many[:300]).any()  # the limit of an image counts all categories


def test_reset_discards_detections(content, tmp_path):
    evaluator = run_grid(tmp_path / "grid", [1, 2])
    evaluator.reset()
    evaluator.process([{"image_id": 3, **RECORD}], [output_of(3)])
    evaluator.evaluate()
    np.testing.assert_equal(evaluator.metrics(0), expected_of(0, [3]))


def test_annotations_are_required(tmp_path, own_catalogs):
    register(tmp_path, made_content([], images=IMAGES))
    with pytest.raises(InputError, match=f"{NAME} has no annotations"):
        run_grid(tmp_path / "grid", [1]).metrics(0)


SHARDS = ([3, 1, 2, 6], [4, 5]), ([2, 1], [])


def run_shards(folder):
    """In each of two processes."""
    register(folder)
    select = GridEvaluator(NAME, folder / "unused", SETTINGS).judged_categories()
    kept = [select(image_id, torch.arange(4)).tolist() for image_id in range(1, IMAGES + 1)]
    (folder / f"judged_{comm.get_rank()}.json").write_text(json.dumps(kept))
    for number, shards in enumerate(SHARDS):
        evaluator = run_grid(folder / f"{number}_{comm.get_rank()}", shards[comm.get_rank()])
        if comm.is_main_process():
            found = [evaluator.metrics(setting) for setting in range(SETTINGS)]
            (folder / f"{number}.json").write_text(json.dumps(found))


def test_two_processes_find_what_one_finds(content, tmp_path):
    on_ranks(2, tmp_path, run_shards, tmp_path)
    for number, shards in enumerate(SHARDS):
        evaluator = run_grid(tmp_path / "one", [*shards[0], *shards[1]])
        expected = [evaluator.metrics(setting) for setting in range(SETTINGS)]
        assert (tmp_path / f"{number}.json").read_text() == json.dumps(expected)
    judged = [json.loads((tmp_path / f"judged_{rank}.json").read_text()) for rank in range(2)]
    assert judged[0] == judged[1] and 0 < np.mean(judged[0]) < 1


def test_nothing_stays_on_a_full_disk(content, tmp_path, monkeypatch):
    evaluator = GridEvaluator(NAME, tmp_path / "grid", SETTINGS)
    evaluator.reset()
    evaluator.process([{"image_id": 1, **RECORD}], [output_of(1)])

    class Full:
        def close(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    for writer in (evaluator._output._writer, evaluator._output._selections):
        for file in writer.files.values():
            file._file.close()
            monkeypatch.setattr(file, "_file", Full())
    evaluator.close()
    assert not (tmp_path / "grid").exists()
