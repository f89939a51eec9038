"""Rare, common and frequent categories: a file's own groups, or those of the training images."""

from __future__ import annotations

import copy
import functools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import load_lvis_json
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

from balanced_lvis.commands.evaluate_file import evaluate_file
from balanced_lvis.config import load_config
from balanced_lvis.data.annotations.class_names import class_names_of
from balanced_lvis.data.annotations.counting import count_classes
from balanced_lvis.data.custom.registration import prepare_custom
from balanced_lvis.data.preflight import preflight
from balanced_lvis.data.training_prior import class_prior_of_dataset
from balanced_lvis.evaluation import LVIS, Detections, DetectionWriter, LVISEval, LVISEvaluator, LVISResults
from balanced_lvis.evaluation.lvis_api import METRICS
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.io import write_json
from tests.evaluation.test_lvis_api import made_annotations, predictions

# Categories 1, 4, 7, ... are common, 2, 5, 8, ... frequent and 3, 6, 9, ... rare, whatever their numbers of images.
CONTENT = made_annotations()
for _image in CONTENT["images"]:
    _image["coco_url"] = f"http://images.cocodataset.org/val2017/{_image['id']}.jpg"


pytestmark = pytest.mark.usefixtures("own_catalogs")


def changed(change=lambda category: None) -> dict:
    """The annotations with other categories."""
    content = copy.deepcopy(CONTENT)
    for category in content["categories"]:
        change(category)
    return content


def without_frequency(category: dict) -> None:
    del category["frequency"]


def config(folder, val: dict, train: dict | None, *opts):
    """Of an evaluation on ``val``; ``train`` is the training set."""
    words = ["DATASETS.TEST", "('own_val',)", "OUTPUT_DIR", folder / "out"]
    words += ["DATASETS.CUSTOM.own_val.JSON", folder / "val.json", "DATASETS.CUSTOM.own_val.IMAGES", folder]
    write_json(folder / "val.json", val)
    if train is not None:
        write_json(folder / "train.json", train)
        words += ["DATASETS.TRAIN", "('own_train',)", "DATASETS.CUSTOM.own_train.JSON", folder / "train.json"]
        words += ["DATASETS.CUSTOM.own_train.IMAGES", folder]
    return load_config("", [*map(str, (*words, *opts))])


def groups_of(name: str) -> set[tuple]:
    content = json.loads(Path(MetadataCatalog.get(name).json_file).read_text())
    return {(category["id"], category["frequency"]) for category in content["categories"]}


def own_groups(content: dict = CONTENT) -> set[tuple]:
    return {(category["id"], category["frequency"]) for category in content["categories"]}


def official(json_file, results: list[dict], task: str) -> list[float]:
    """The LVIS API's own numbers of the file as it is."""
    results = [{k: v for k, v in r.items() if k != ("segmentation" if task == "bbox" else "bbox")} for r in results]
    truth = LVIS(str(json_file))
    evaluation = LVISEval(truth, LVISResults(truth, results), task)
    evaluation.run()
    return [evaluation.get_results()[name] * 100 for name in METRICS]


@pytest.mark.parametrize("trained", [True, False], ids=["training set", "no training set"])
@pytest.mark.parametrize("backend", ["fast", "official"])
def test_a_file_with_groups_of_its_own_has_the_lvis_apis_numbers(tmp_path, backend, trained):
    train = changed(without_frequency) if trained else None  # by which all categories would be rare
    cfg = config(tmp_path, CONTENT, train, "TEST.LVIS_BACKEND", backend)
    results = predictions(LVIS(str(tmp_path / "val.json")), degrade=0.5)
    for result in results:
        result["segmentation"] = {**result["segmentation"], "counts": result["segmentation"]["counts"].decode()}
    write_json(tmp_path / "found.json", results)
    found = evaluate_file(cfg, str(tmp_path / "found.json"))
    for task in ("bbox", "segm"):
        expected = official(tmp_path / "val.json", results, task)
        np.testing.assert_array_equal([found[task][name] for name in METRICS], expected)
        assert len({found[task][name] for name in ("APr", "APc", "APf")}) == 3
    rows = json.loads(next(tmp_path.glob("out/**/per_category_ap.json")).read_text())
    assert {(row["id"], row["frequency"]) for row in rows} == own_groups()


def test_groups_follow_from_a_class_prior_only_where_the_file_has_none(tmp_path):
    ClassPrior([c["name"] for c in CONTENT["categories"]], [200] * 30, 1000).save(tmp_path / "prior.json")
    prior = ("MODEL.CLASS_PRIOR.FILE", tmp_path / "prior.json")
    prepare_custom(config(tmp_path, CONTENT, None, *prior))
    assert groups_of("own_val") == own_groups()
    prepare_custom(config(tmp_path, changed(without_frequency), None, *prior))
    assert {group for _, group in groups_of("own_val")} == {"f"}


def test_a_part_of_lvis_is_evaluated_by_a_config_that_trains_on_lvis(tmp_path):
    content = {**CONTENT, "categories": LVIS_CATEGORIES}
    prepare_custom(config(tmp_path, content, None, "DATASETS.TRAIN", "('lvis_v1_train',)"))
    assert groups_of("own_val") == own_groups(content)
    # Category 162 is "bull" in LVIS's files, and "horned_cow" in Detectron2's metadata, priors and checkpoints.
    names = class_prior_of_dataset("lvis_v1_train").class_names
    assert (LVIS_CATEGORIES[161]["name"], names[161]) == ("bull", "horned_cow")
    assert tuple(MetadataCatalog.get("own_val").thing_classes) == names
    assert count_classes(tmp_path / "val.json").class_names == names
    assert tuple(class_names_of(tmp_path / "val.json")) == names


@pytest.mark.parametrize("more", [{"synonyms": ["other"]}, {"synset": "x.n.01", "synonyms": []}, {"synset": "x.n.01"}])
def test_other_classes_have_their_own_names(tmp_path, more):
    prepare_custom(config(tmp_path, changed(lambda category: category.update(more)), None))
    assert MetadataCatalog.get("own_val").thing_classes == [c["name"] for c in CONTENT["categories"]]


def test_a_frequency_of_null_is_none(tmp_path):
    prepare_custom(config(tmp_path, changed(lambda c: c.update(frequency=None)), changed(without_frequency)))
    assert {group for _, group in groups_of("own_val")} == {"r"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "1 of 30 categories, the first being category 4 'c4' with None"),
        ("R", "1 of 30 categories, the first being category 4 'c4' with 'R'"),
        (["r"], "category 4 'c4' with ['r']"),
        (7, "category 4 'c4' with 7"),
    ],
)
def test_groups_of_some_categories_or_of_other_letters_are_refused_in_evaluation_alone(tmp_path, value, words):
    content = changed(lambda c: c.update(frequency=value) if c["id"] == 4 else None)
    with pytest.raises(InputError) as caught:
        prepare_custom(config(tmp_path, content, CONTENT))
    assert words in str(caught.value) and "remove 'frequency' from all categories" in str(caught.value)
    cfg = config(tmp_path, CONTENT, content)  # a training set has no use for them
    prepare_custom(cfg)
    assert groups_of("own_val") == own_groups()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_frequency, "No category has a 'frequency'"),
        (lambda c: c.update(frequency="x") if c["id"] == 9 else None, "category 9 'c9' with 'x'"),
    ],
)
def test_a_registered_lvis_file_without_groups_is_refused_before_and_by_the_evaluation(tmp_path, change, words):
    content = changed(change)
    write_json(tmp_path / "val.json", content)
    load = functools.partial(load_lvis_json, str(tmp_path / "val.json"), str(tmp_path))
    DatasetCatalog.register("registered_val", load)
    metadata = MetadataCatalog.get("registered_val")
    metadata.set(json_file=str(tmp_path / "val.json"), image_root=str(tmp_path), evaluator_type="lvis")
    with pytest.raises(InputError, match=words):
        preflight((), ("registered_val",))
    with pytest.raises(InputError, match=words) as caught:
        LVISEvaluator("registered_val").evaluate_stored(nothing_found(tmp_path), ("bbox",))
    # The remedy that is named.
    assert "name the file under DATASETS.CUSTOM" in str(caught.value)
    remedied = changed(without_frequency)
    prepare_custom(config(tmp_path, remedied, remedied))
    assert LVISEvaluator("own_val").evaluate_stored(nothing_found(tmp_path), ("bbox",))["bbox"]["APr"] == 0


def nothing_found(folder) -> Detections:
    writer = DetectionWriter(folder / "store")
    writer.write(1, [], [], [])
    writer.close()
    return Detections(folder / "store")


@pytest.mark.parametrize(
    ("val", "train", "words"),
    [
        (CONTENT, CONTENT, "'frequency' of the file's categories"),
        (changed(without_frequency), CONTENT, "the number of training images"),
        (changed(without_frequency), None, "the number of images in the file itself"),
    ],
    ids=["own", "training", "no training set"],
)
def test_what_the_groups_follow_from_is_logged_once(tmp_path, caplog, request, val, train, words):
    cfg = config(tmp_path, val, train)
    with caplog.at_level(logging.INFO, logger="balanced_lvis"):
        prepare_custom(cfg)
        metadata = MetadataCatalog.get("own_val")
        vars(metadata)["name"] = request.node.name  # not logged before, by another test
        for _ in range(3):
            evaluator = LVISEvaluator("own_val")
            evaluator.evaluate_stored(nothing_found(tmp_path), ("bbox",))
    lines = [record.getMessage() for record in caplog.records if "APr, APc, APf) are defined" in record.getMessage()]
    assert len(lines) == 1 and lines[0].endswith(f"are defined by {words}.")
    warned = [record for record in caplog.records if "the training set is unknown" in record.getMessage()]
    assert len(warned) == (train is None)
