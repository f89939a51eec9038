"""Datasets registered by Detectron2's functions are evaluated as those under DATASETS.CUSTOM."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances

from balanced_lvis.commands.evaluate_file import evaluate_file
from balanced_lvis.commands.train import argument_parser
from balanced_lvis.config import load_config
from balanced_lvis.data.annotations.class_names import class_names_of
from balanced_lvis.data.custom.registration import prepare_custom
from balanced_lvis.data.loader import build_test_loader
from balanced_lvis.data.preflight import preflight
from balanced_lvis.data.registered_files import evaluation_file_of
from balanced_lvis.engine.run import check, read_config
from balanced_lvis.evaluation import LVISEvaluator
from balanced_lvis.utils.errors import InputError
from tests.common import CONFIGS
from tests.data.custom import made

CONFIG = CONFIGS / "custom" / "small_balanced_sigmoid.yaml"


pytestmark = pytest.mark.usefixtures("own_catalogs")


@pytest.fixture(params=[False, True], ids=["polygons", "RLE masks"])
def folder(tmp_path, request):
    """A training and an evaluation file with ids that have gaps, crowds and an empty image, both registered."""
    for name in ("train", "val"):
        register(tmp_path, name, made.content(rles=request.param))
    return tmp_path


def register(folder, name, content):
    made.write(folder, name, content)
    register_coco_instances(f"their_{name}", {}, str(folder / f"{name}.json"), str(folder / "images"))


def words(folder, *opts) -> list[str]:
    fixed = ("DATASETS.TRAIN", "('their_train',)", "DATASETS.TEST", "('their_val',)", "OUTPUT_DIR", folder / "out")
    return [*map(str, (*fixed, "MODEL.DEVICE", "cpu", *opts))]


def config(folder, *opts):
    return load_config(CONFIG, words(folder, *opts))


def checked(folder, *opts):
    """The config of a training run after all checks."""
    args = argument_parser().parse_args(["--config-file", str(CONFIG), *words(folder, *opts)])
    cfg = read_config(args)
    check(cfg, args)
    return cfg


def found_by_a_perfect_model(records) -> list[dict]:
    return [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
        for a in records
        if not a["iscrowd"]
    ]


def test_a_perfect_model_of_the_files_classes_is_perfect(folder):
    cfg = checked(folder)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 4
    evaluator = LVISEvaluator("their_val", str(folder / "out"))
    evaluator.reset()
    records = {record["image_id"]: record for record in DatasetCatalog.get("their_val")}
    for (inputs,) in build_test_loader(cfg, "their_val"):
        truth = [a for a in records[inputs["image_id"]]["annotations"] if not a["iscrowd"]]
        evaluator.process([inputs], [{"instances": made.instances_of(truth)}])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)
    assert {r["category_id"] for r in json.loads(next(folder.glob("out/*results.json")).read_text())} == {3, 7, 90}


def test_numbers_are_those_of_the_same_files_in_the_config(folder):
    truth = json.loads((folder / "val.json").read_text())["annotations"]
    results = found_by_a_perfect_model(truth)
    results[0]["score"], results[0]["bbox"] = 0.1, [0, 0, 9, 9]
    (folder / "found.json").write_text(json.dumps(results))
    theirs = evaluate_file(config(folder, "MODEL.MASK_ON", "False"), str(folder / "found.json"))
    ours = evaluate_file(made.config(folder, MODEL__MASK_ON=False), str(folder / "found.json"))
    assert json.dumps(theirs) == json.dumps(ours)
    assert 0 < theirs["bbox"]["AP"] < 100


def test_groups_are_those_of_training_and_change_with_it(tmp_path):
    content = made.content()
    for i in range(11):
        content["images"].append({"id": 100 + i, "file_name": "1.jpg", "width": made.WIDTH, "height": made.HEIGHT})
        content["annotations"].append(made.annotation(100 + i, 100 + i, 7))
    register(tmp_path, "train", content)
    register(tmp_path, "val", made.content())
    prepare_custom(config(tmp_path))
    assert made.groups_of("their_val") == {"cat": "r", "cup": "c", "dog": "r", "owl": "r"}
    prepare_custom(config(tmp_path, "DATASETS.TRAIN", "('their_val',)"))
    assert made.groups_of("their_val") == {"cat": "r", "cup": "r", "dog": "r", "owl": "r"}


def test_a_name_with_v1_in_it_has_the_files_classes_and_not_lvis_ones(tmp_path):
    made.write(tmp_path, "train", made.content())
    register_coco_instances("mine_v1_train", {}, str(tmp_path / "train.json"), str(tmp_path / "images"))
    assert class_names_of("mine_v1_train") == ["cat", "cup", "dog", "owl"]


def test_a_loader_of_ones_own_with_a_coco_file_is_enough(tmp_path):
    path = made.write(tmp_path, "val", made.content())
    DatasetCatalog.register("their_val", lambda: load_coco_json(path, str(tmp_path / "images")))
    MetadataCatalog.get("their_val").set(json_file=path, evaluator_type="coco")
    prepare_custom(config(tmp_path, "DATASETS.TRAIN", "()"))
    assert MetadataCatalog.get("their_val").thing_dataset_id_to_contiguous_id == {3: 0, 7: 1, 90: 2, 91: 3}
    assert set(made.groups_of("their_val").values()) == {"r"}


def test_what_has_no_file_is_refused_and_the_remedy_that_is_named_works(tmp_path):
    DatasetCatalog.register("function", list)
    with pytest.raises(InputError, match="'function' has evaluator_type None .* under DATASETS.CUSTOM, as another"):
        evaluation_file_of("function")
    made.write(tmp_path, "val", made.content())
    prepare_custom(made.config(tmp_path, train=""))
    assert evaluation_file_of("my_val") == MetadataCatalog.get("my_val").json_file


@pytest.mark.parametrize(
    ("opts", "metadata", "words"),
    [
        ((), {}, "MODEL.MASK_ON is True, but 3 annotations of their_val have no mask"),
        (
            ("MODEL.MASK_ON", "False"),
            {"thing_classes": ["cup", "cat", "dog", "owl"]},
            "the metadata of 'their_val' has other thing_classes than its file",
        ),
    ],
)
def test_what_can_not_be_evaluated_is_told_at_the_start(tmp_path, opts, metadata, words):
    content = made.content()
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    register(tmp_path, "train", content)
    made.write(tmp_path, "val", content)
    register_coco_instances("their_val", metadata, str(tmp_path / "val.json"), str(tmp_path / "images"))
    with pytest.raises(InputError, match=words):
        prepare_custom(config(tmp_path, *opts))


@pytest.mark.parametrize("flag", ["0", None, 2])
@pytest.mark.parametrize("activation", ["sigmoid", "balanced_sigmoid"])
def test_a_flag_by_which_training_would_lose_objects_is_refused_whatever_counts_them(tmp_path, activation, flag):
    content = made.content()
    content["annotations"][0]["iscrowd"] = flag
    register(tmp_path, "train", content)
    opts = ("DATASETS.TEST", "()", "MODEL.ROI_BOX_HEAD.ACTIVATION.NAME", activation)
    with pytest.raises(InputError, match=f"Image 10 has an annotation whose iscrowd is {flag!r}; write 0 or 1"):
        checked(tmp_path, *opts, "DATALOADER.SAMPLER_TRAIN", "TrainingSampler", "TEST.EVAL_PERIOD", "0")


def test_the_checks_before_training_load_a_coco_dataset_once(tmp_path):
    path, loads = made.write(tmp_path, "train", made.content()), []
    (tmp_path / "images" / "4.jpg").unlink(missing_ok=True)  # the image without objects
    DatasetCatalog.register("counted", lambda: loads.append(1) or load_coco_json(path, str(tmp_path / "images")))
    MetadataCatalog.get("counted").set(json_file=path, evaluator_type="coco")
    preflight(("counted",))
    assert len(loads) == 1


def test_a_path_that_detectron2s_loader_does_not_find_is_not_said_to_be_used(tmp_path, caplog):
    content = made.content()
    made.write(tmp_path, "val", content)
    (tmp_path / "images" / "sub").mkdir()
    (tmp_path / "images" / "1.jpg").rename(tmp_path / "images" / "sub" / "1.jpg")
    content["images"][0]["file_name"] = "sub\\1.jpg"
    (tmp_path / "val.json").write_text(json.dumps(content))
    register_coco_instances("their_val", {}, str(tmp_path / "val.json"), str(tmp_path / "images"))
    prepare_custom(config(tmp_path, "DATASETS.TRAIN", "()"))
    with pytest.raises(InputError, match="exists: correct the paths, or name the file under DATASETS.CUSTOM"):
        preflight((), ("their_val",))
    assert "Those files are used" not in caplog.text


def test_other_categories_than_those_of_training_name_both(tmp_path):
    other = made.content()
    other["categories"][0]["name"] = "mug"
    register(tmp_path, "train", made.content())
    register(tmp_path, "val", other)
    with pytest.raises(InputError, match=r"their_val .*val\.json.* than training set their_train: .* 'mug' instead"):
        prepare_custom(config(tmp_path))


def test_an_evaluation_without_the_conversion_says_how_to_make_it(tmp_path):
    register(tmp_path, "val", made.content())
    with pytest.raises(InputError, match=r"not converted to LVIS format yet: call .*prepare_datasets\(cfg\)"):
        LVISEvaluator("their_val")
