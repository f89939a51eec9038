"""Registration of custom datasets by a config, and training and evaluation with them."""

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, PolygonMasks

from balanced_lvis.config import load_config
from balanced_lvis.data.config_datasets import resolve_num_classes
from balanced_lvis.data.custom.conversion_cache import converted
from balanced_lvis.data.custom.registration import prepare_custom
from balanced_lvis.data.dataset_records import load_records
from balanced_lvis.data.index import LVISRecords
from balanced_lvis.data.loader import build_test_loader, build_train_loader
from balanced_lvis.data.preflight import preflight
from balanced_lvis.data.training_prior import class_prior_from_config
from balanced_lvis.evaluation import LVISEvaluator
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from tests.data.custom import made


@pytest.fixture(params=[False, True], ids=["polygons", "run lengths"])
def folder(tmp_path, request):
    for name in ("train", "val"):
        made.write(tmp_path, name, made.content(rles=request.param))
    return tmp_path


@pytest.fixture
def polygons(tmp_path):
    for name in ("train", "val"):
        made.write(tmp_path, name, made.content())
    return tmp_path


pytestmark = pytest.mark.usefixtures("own_catalogs")


def test_a_yaml_alone_registers_them(polygons):
    lines = [
        "DATASETS:", "  CUSTOM:", f"    my_train: {{JSON: {polygons}/train.json, IMAGES: {polygons}/images}}",
        "  TRAIN: ('my_train',)", "  TEST: ('my_train',)", "MODEL:", "  ROI_HEADS: {NUM_CLASSES: 0}",
    ]  # fmt: skip
    (polygons / "mine.yaml").write_text("\n".join(lines))
    cfg = load_config(polygons / "mine.yaml")
    resolve_num_classes(cfg)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 4
    assert MetadataCatalog.get("my_train").thing_classes == ["cat", "cup", "dog", "owl"]
    (polygons / "again.yaml").write_text(cfg.dump())  # as a training run writes it to its output folder
    assert load_config(polygons / "again.yaml").DATASETS == cfg.DATASETS


def test_overrides_change_what_a_yaml_says_and_add_to_it(polygons):
    cfg = made.config(polygons)
    (polygons / "mine.yaml").write_text(cfg.dump())
    other = ["DATASETS.CUSTOM.my_val.JSON", "other.json", "DATASETS.CUSTOM.my_third.IMAGES", "elsewhere"]
    changed = load_config(polygons / "mine.yaml", other)
    assert changed.DATASETS.CUSTOM.my_val.JSON == "other.json"
    assert changed.DATASETS.CUSTOM.my_val.IMAGES == cfg.DATASETS.CUSTOM.my_val.IMAGES
    assert changed.DATASETS.CUSTOM.my_third.IMAGES == "elsewhere"


def test_number_of_classes_names_and_prior_follow(folder):
    cfg = made.config(folder)
    resolve_num_classes(cfg)
    prior = class_prior_from_config(cfg)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 4
    assert prior.class_names == ("cat", "cup", "dog", "owl")
    assert (prior.image_count.tolist(), prior.instance_count.tolist()) == ([1, 1, 1, 0], [1, 1, 1, 0])
    assert prior.num_images == 2  # of four, one has crowds only, and one nothing


def test_records_are_the_same_with_and_without_an_index(polygons, monkeypatch):
    cfg = made.config(polygons)
    prepare_custom(cfg)
    indexed = load_records("my_train", filter_empty=False)
    assert isinstance(indexed, LVISRecords)
    records = [indexed[i] for i in range(len(indexed))]
    assert records == DatasetCatalog.get("my_train")
    assert [a["category_id"] for a in records[0]["annotations"]] == [1, 0]
    assert all(os.path.isfile(record["file_name"]) for record in records)
    monkeypatch.setenv("BALANCED_LVIS_INDEX", "off")
    assert list(load_records("my_train", filter_empty=False)) == records


def test_images_of_crowds_alone_are_not_trained_on(folder):
    cfg = made.config(folder)
    prepare_custom(cfg)
    assert [record["image_id"] for record in load_records("my_train")] == [10, 20]
    assert len(load_records("my_val", filter_empty=False)) == 4


def test_training_has_their_masks_whatever_form_they_have(folder):
    cfg = made.config(folder, SOLVER__IMS_PER_BATCH=2)
    resolve_num_classes(cfg)
    preflight(cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    seen = {}
    for record in next(iter(build_train_loader(cfg))) + next(iter(build_train_loader(cfg))):
        seen[record["image_id"]] = record["instances"]
    assert set(seen) <= {10, 20}
    for instances in seen.values():
        masks = instances.gt_masks
        assert isinstance(masks, (BitMasks, PolygonMasks))
        boxes = instances.gt_boxes.tensor
        np.testing.assert_allclose(masks.get_bounding_boxes().tensor, boxes, atol=2)  # scaled to twice the size
        masks.crop_and_resize(boxes, 28)


def test_results_are_in_the_files_own_ids_and_a_perfect_model_is_perfect(folder):
    cfg = made.config(folder)
    resolve_num_classes(cfg)
    evaluator = LVISEvaluator("my_val", str(folder / "out"))
    evaluator.reset()
    records = {record["image_id"]: record for record in load_records("my_val", filter_empty=False)}
    for (inputs,) in build_test_loader(cfg, "my_val"):
        truth = records[inputs["image_id"]]["annotations"]
        evaluator.process([inputs], [{"instances": made.instances_of(truth)}])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)
    written = json.loads((folder / "out" / "lvis_instances_results.json").read_text())
    assert {result["category_id"] for result in written} == {3, 7, 90}


def test_groups_of_evaluation_are_those_of_training(polygons):
    content = made.content()
    for i in range(11):  # eleven more images with a cup: common in training, rare in evaluation
        content["images"].append({"id": 100 + i, "file_name": "1.jpg", "width": made.WIDTH, "height": made.HEIGHT})
        content["annotations"].append(made.annotation(100 + i, 100 + i, 7))
    made.write(polygons, "train", content)
    cfg = made.config(polygons)
    prepare_custom(cfg)
    assert made.groups_of("my_val") == {"cat": "r", "cup": "c", "dog": "r", "owl": "r"}
    # In an evaluation without the training annotations, they are derived from the saved prior.
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
    class_prior_from_config(cfg).save(polygons / "class_prior.json")
    (polygons / "train.json").unlink()
    cfg.MODEL.CLASS_PRIOR.FILE = str(polygons / "class_prior.json")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 0
    resolve_num_classes(cfg)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 4
    assert made.groups_of("my_val") == {"cat": "r", "cup": "c", "dog": "r", "owl": "r"}


@pytest.fixture
def registered_elsewhere():
    """A training set of 150 images with a cup, registered by the program."""
    records = [{"image_id": i, "annotations": [{"category_id": 1}]} for i in range(150)]
    DatasetCatalog.register("elsewhere", lambda: records)
    return MetadataCatalog.get("elsewhere")


def test_groups_are_those_of_a_training_set_that_others_registered(polygons, registered_elsewhere):
    registered_elsewhere.thing_classes = ["cat", "cup", "dog", "owl"]
    prepare_custom(made.config(polygons, DATASETS__TRAIN="('elsewhere',)"))
    assert made.groups_of("my_val") == {"cat": "r", "cup": "f", "dog": "r", "owl": "r"}
    # Together with a dataset under DATASETS.CUSTOM.
    prepare_custom(made.config(polygons, DATASETS__TRAIN="('my_train', 'elsewhere')"))
    assert made.counts_of("my_val") == {"cat": 1, "cup": 151, "dog": 1, "owl": 0}


def test_groups_of_a_training_set_that_is_evaluated_are_those_of_all_training_sets(polygons):
    prepare_custom(made.config(polygons, DATASETS__TRAIN="('my_train', 'my_val')"))
    assert made.counts_of("my_val") == {"cat": 2, "cup": 2, "dog": 2, "owl": 0}


def test_a_misspelt_name_is_told_which_of_ones_own_is_meant(polygons):
    with pytest.raises(InputError, match="'my_vall' is neither registered nor under DATASETS.CUSTOM. .*'my_val'"):
        prepare_custom(made.config(polygons, DATASETS__TEST="('my_vall',)"))


def test_other_classes_of_a_training_set_that_others_registered_name_both(polygons, registered_elsewhere):
    registered_elsewhere.thing_classes = ["cat", "mug", "dog", "owl"]
    words = (
        r"my_val \(.*val\.json\) has other categories than training set elsewhere: category 2, ordered by id, is 'cup'"
    )
    with pytest.raises(InputError, match=words):
        prepare_custom(made.config(polygons, DATASETS__TRAIN="('elsewhere',)"))


def test_a_prior_of_as_many_other_classes_is_refused(polygons):
    path = polygons / "prior.json"
    ClassPrior(["cat", "mug", "dog", "owl"], [5, 6, 7, 8], 10).save(path)
    with pytest.raises(
        InputError, match=r"my_val .* than the class prior .*prior\.json: category 2, .* instead of 'mug'"
    ):
        prepare_custom(made.config(polygons, train="", MODEL__CLASS_PRIOR__FILE=path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.append({"id": 92, "name": "fox"}), "val.json have 5 categories, but training set my_train"),
        (lambda c: c[0].update(name="mug"), "id 7 'mug' instead of id 7 'cup'"),
        (lambda c: c[3].update(id=95), "id 95 'owl' instead of id 91 'owl'"),
    ],
)
def test_different_categories_of_training_and_evaluation_name_both(polygons, change, words):
    content = copy.deepcopy(made.content())
    change(content["categories"])
    made.write(polygons, "val", content)
    with pytest.raises(InputError) as caught:
        prepare_custom(made.config(polygons))
    assert "train.json" in str(caught.value)
    assert "val.json" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        ({"DATASETS__CUSTOM__my_val__JSON": ""}, r"DATASETS.CUSTOM.my_val.JSON is ''; set it to the annotation file"),
        ({"DATASETS__CUSTOM__my_val__IMAGES": ""}, r"DATASETS.CUSTOM.my_val.IMAGES is ''"),
        ({"DATASETS__CUSTOM__my_val__JSON": "nowhere.json"}, r"my_val.JSON: .*nowhere.json doesn't exist"),
        ({"DATASETS__CUSTOM__my_val__JSON": "."}, r"my_val.JSON: .* is a folder; name the file in it"),
        ({"DATASETS__CUSTOM__my_val__JSON": "/dev/null"}, r"my_val.JSON: /dev/null is not a regular file"),
        ({"DATASETS__CUSTOM__lvis_v1_val__JSON": "x.json"}, r"DATASETS.CUSTOM.lvis_v1_val.IMAGES is None"),
    ],
)
def test_what_a_config_lacks_is_told(polygons, opts, words):
    with pytest.raises(InputError, match=words):
        prepare_custom(made.config(polygons, **opts))


def test_names_of_other_data_sets_are_not_taken(polygons):
    cfg = made.config(polygons)
    cfg.DATASETS.CUSTOM.lvis_v1_val = cfg.DATASETS.CUSTOM.my_val.clone()
    cfg.DATASETS.TEST = ("lvis_v1_val",)
    with pytest.raises(InputError, match="name of another dataset"):
        prepare_custom(cfg)


def test_an_unknown_key_of_a_data_set_is_told(polygons):
    (polygons / "mine.yaml").write_text("DATASETS:\n  CUSTOM:\n    mine: {JSON: a.json, IMAGE: b}\n")
    with pytest.raises(InputError, match=r"DATASETS.CUSTOM.mine: unknown IMAGE; valid: JSON, IMAGES"):
        prepare_custom(load_config(polygons / "mine.yaml"))


def test_boxes_without_masks_ask_for_a_model_without(polygons):
    content = made.content()
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    made.write(polygons, "train", content)
    made.write(polygons, "val", content)
    with pytest.raises(InputError, match="MODEL.MASK_ON is True, but 3 annotations of my_train have no mask"):
        prepare_custom(made.config(polygons))
    cfg = made.config(polygons, MODEL__MASK_ON=False)
    resolve_num_classes(cfg)
    assert not any(record["instances"].has("gt_masks") for record in next(iter(build_train_loader(cfg))))


def test_boxes_alone_are_trained_on_even_if_some_annotations_have_a_mask(folder):
    for name in ("train", "val"):
        content = made.content()
        content["annotations"][1]["segmentation"] = []
        del content["annotations"][2]["segmentation"]
        made.write(folder, name, content)
    with pytest.raises(InputError, match="MODEL.MASK_ON is True, but 2 annotations of my_train have no mask"):
        prepare_custom(made.config(folder))
    cfg = made.config(folder, MODEL__MASK_ON=False)
    resolve_num_classes(cfg)
    preflight(cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    batch = next(iter(build_train_loader(cfg)))
    assert sum(len(record["instances"]) for record in batch) >= 2
    assert not any(record["instances"].has("gt_masks") for record in batch)


def test_an_ignored_object_is_left_out_of_records_and_counts(folder):
    content = json.loads((folder / "train.json").read_text())
    content["annotations"][0]["ignore"] = True
    made.write(folder, "train", content)
    cfg = made.config(folder)
    resolve_num_classes(cfg)
    records = {record["image_id"]: record for record in load_records("my_train", filter_empty=False)}
    assert [a["category_id"] for a in records[10]["annotations"]] == [0]
    assert DatasetCatalog.get("my_train") == [records[i] for i in sorted(records)]
    assert class_prior_from_config(cfg).instance_count.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("value", ["0", "1", 2, 1.0, "false", []])
@pytest.mark.parametrize("flag", ["iscrowd", "ignore"])
def test_a_flag_of_another_kind_is_an_error(polygons, flag, value):
    content = made.content()
    content["annotations"][1][flag] = value
    made.write(polygons, "train", content)
    with pytest.raises(InputError, match=r"annotation 5 of image 10: .* is ") as caught:
        prepare_custom(made.config(polygons))
    assert f"{flag} is {value!r}" in str(caught.value)


def paths_in(converted_file):
    return [image["file_name"] for image in json.loads(Path(converted_file).read_text())["images"]]


def test_images_that_come_after_a_first_try_are_found_where_they_are(tmp_path):
    """Without any image, the layout is a guess, which a later start must not keep."""
    content = made.content()
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{image['file_name']}"
    path = made.write(tmp_path, "train", content)
    pictures = tmp_path / "images"
    away = pictures.rename(tmp_path / "away")
    first, _ = converted(path, str(pictures), None)
    assert paths_in(first) == ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    pictures.mkdir()
    away.rename(pictures / "val2017")
    second, summary = converted(path, str(pictures), None)
    assert summary.images_found
    assert paths_in(second) == [f"val2017/{i}.jpg" for i in (1, 2, 3, 4)]
