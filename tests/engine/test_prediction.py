"""Pictures: what is drawn and written is what the model finds, and a broken one stops nothing."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from PIL import Image
from pycocotools import mask as mask_util

from balanced_lvis.engine.checkpoints.identity import Identity
from balanced_lvis.engine.prediction import Predictor, find_pictures, output_paths
from balanced_lvis.errors import InputError

from ..common import ROOT, SHARED_DATA

NAMES = [f"class {chr(97 + i)}" for i in range(12)]
THRESHOLD = 0.0005


class _Settings:
    """As programs save them with their weights."""


@pytest.fixture
def run_folder(tiny_cfg, tmp_path):
    """A trained run's folder: config.yaml and model_final.pth, of a model that finds something in anything."""
    model = build_model(tiny_cfg)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    folder = tmp_path / "run"
    folder.mkdir()
    cfg = tiny_cfg.clone()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("nowhere_train",), ("nowhere_val",)  # no data set is needed
    (folder / "config.yaml").write_text(cfg.dump())
    identity = Identity(NAMES, "sigmoid", "an end-to-end training")
    torch.save({"model": model.state_dict(), Identity.KEY: identity.state_dict()}, folder / "model_final.pth")
    return folder


@pytest.fixture
def predictor(run_folder):
    return Predictor(run_folder / "model_final.pth", threshold=THRESHOLD)


def test_a_number_of_classes_that_is_left_to_the_data_is_asked_for(run_folder):
    opts = ["MODEL.ROI_HEADS.NUM_CLASSES", "0"]
    with pytest.raises(InputError, match=r"NUM_CLASSES is 0 in .*config\.yaml"):
        Predictor(run_folder / "model_final.pth", opts=opts)


def pictures_of(rendered):
    return sorted(map(str, rendered.glob("val/*.jpg")))


def test_a_prediction_is_that_of_detectron2s_predictor(predictor, run_folder, rendered):
    cfg = predictor.cfg.clone()
    cfg.MODEL.WEIGHTS = str(run_folder / "model_final.pth")
    cfg.DATASETS.TEST = ()
    theirs = DefaultPredictor(cfg)
    for path in pictures_of(rendered)[:3]:
        ours = predictor(path)
        expected = theirs(read_image(path, "BGR"))["instances"]
        assert len(expected) > 0
        np.testing.assert_array_equal(ours.boxes, expected.pred_boxes.tensor)
        np.testing.assert_array_equal(ours.scores, expected.scores)
        np.testing.assert_array_equal(ours.classes, expected.pred_classes)
        np.testing.assert_array_equal(mask_util.decode(ours.masks), expected.pred_masks.permute(1, 2, 0))


def test_what_the_config_asks_for_speed_is_done_as_in_evaluation_and_changes_last_digits_only(
    predictor, run_folder, rendered, monkeypatch
):
    opts = ["MODEL.CHANNELS_LAST", "True"]
    faster = Predictor(run_folder / "model_final.pth", opts=opts, threshold=THRESHOLD)
    weight = faster._model.backbone.fpn_output2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    path = pictures_of(rendered)[0]
    found, expected = faster(path), predictor(path)
    assert len(expected.scores) > 0
    np.testing.assert_allclose(found.scores[:5], expected.scores[:5], rtol=1e-3)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"COMPILE_BACKBONE is True, which needs a C\+\+ compiler"):
        Predictor(run_folder / "model_final.pth", opts=["MODEL.COMPILE_BACKBONE", "True"])


def test_names_come_from_the_checkpoint_and_the_config_from_its_folder(predictor, run_folder):
    assert predictor.class_names == NAMES
    (run_folder / "ema").mkdir()  # where training leaves averaged weights
    shutil.copy(run_folder / "model_final.pth", run_folder / "ema")
    assert Predictor(run_folder / "ema" / "model_final.pth").class_names == NAMES
    (run_folder / "config.yaml").unlink()
    with pytest.raises(InputError, match="--config-file"):
        Predictor(run_folder / "model_final.pth")


def test_a_checkpoint_without_names_takes_those_that_are_given(run_folder, tmp_path):
    content = torch.load(run_folder / "model_final.pth", weights_only=True)
    torch.save(content["model"], run_folder / "bare.pth")
    assert Predictor(run_folder / "bare.pth").class_names[3] == "class 3"
    categories = [{"id": i, "name": f"name {i}"} for i in range(12)]
    (tmp_path / "a.json").write_text(json.dumps({"categories": categories}))
    assert Predictor(run_folder / "bare.pth", classes=str(tmp_path / "a.json")).class_names[3] == "name 3"
    with pytest.raises(InputError, match="1203 class names for a model of 12"):
        Predictor(run_folder / "bare.pth", classes="lvis_v1_val")


def test_a_classifier_of_the_other_family_is_refused(run_folder):
    opts = ["MODEL.ROI_BOX_HEAD.ACTIVATION.NAME", "balanced_softmax"]
    with pytest.raises(InputError, match="trained with a sigmoid activation"):
        Predictor(run_folder / "model_final.pth", opts=opts)


@pytest.mark.parametrize("sigmoid", [True, False])
def test_a_config_of_detectron2s_own_gives_its_predictions(tiny_cfg, rendered, tmp_path, sigmoid):
    cfg = tiny_cfg.clone()
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE = "StandardROIHeads", sigmoid
    cfg.DATASETS.TEST = ()
    model = build_model(cfg)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    cfg.MODEL.WEIGHTS = str(tmp_path / "stock.pth")
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = THRESHOLD
    path = pictures_of(rendered)[0]
    expected = DefaultPredictor(cfg)(read_image(path, "BGR"))["instances"]
    ours = Predictor(cfg.MODEL.WEIGHTS, threshold=THRESHOLD)(path)
    assert len(expected) > 0
    np.testing.assert_array_equal(ours.scores, expected.scores)
    np.testing.assert_array_equal(ours.classes, expected.pred_classes)


def test_a_checkpoint_that_could_run_code_needs_trust(run_folder):
    content = torch.load(run_folder / "model_final.pth", weights_only=True)
    torch.save({**content, "args": _Settings()}, run_folder / "x.pth")
    with pytest.raises(InputError, match="--trust"):
        Predictor(run_folder / "x.pth")
    assert Predictor(run_folder / "x.pth", trust=True).class_names == NAMES


def test_only_what_was_found_is_drawn(predictor, rendered):
    prediction = predictor(pictures_of(rendered)[0])
    drawn = prediction.draw(NAMES)
    height, width = prediction.pixels.shape[:2]
    assert drawn.dtype == np.uint8 and drawn.shape[0] % height == 0 and drawn.shape[1] % width == 0
    nothing = type(prediction)(prediction.path, prediction.pixels, *(x[:0] for x in (
        prediction.boxes, prediction.scores, prediction.classes)), [])  # fmt: skip
    assert (drawn != nothing.draw(NAMES)).any()


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="real photographs are not at hand")
def test_real_photographs_are_drawn_at_their_size(predictor):
    path = next((SHARED_DATA / "coco_tiny" / "train2017").glob("*.jpg"))
    prediction = predictor(path)
    assert prediction.draw(NAMES).shape == prediction.pixels.shape


# ------------------------------------------------------------------ which pictures


def test_pictures_are_found_once_by_name_folder_and_pattern(tmp_path):
    for name in ("a/2.jpg", "a/1.PNG", "a/notes.txt", "b/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_pictures([tmp_path / "b/1.jpg", tmp_path / "a", f"{tmp_path}/*/1.*"])
    assert [path[len(str(tmp_path)) + 1 :] for path in found] == ["b/1.jpg", "a/1.PNG", "a/2.jpg"]
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tmp_path / "c.jpg", f"{tmp_path}/*.jpg"):
        with pytest.raises(InputError, match=r"--input .*(doesn't exist|no picture)"):
            find_pictures([wrong])


def test_pictures_of_one_name_are_drawn_apart_and_never_over_what_is_read(tmp_path):
    paths = [str(tmp_path / name) for name in ("a/1.jpg", "b/1.jpg", "b/2.tif")]
    assert output_paths(paths, "out") == ["out/a/1.jpg", "out/b/1.jpg", "out/b/2.tif.png"]
    with pytest.raises(InputError, match="overwrite"):
        output_paths(paths[:1], tmp_path / "a")


# ------------------------------------------------------------------ the tool


def tool(*arguments):
    spec = importlib.util.spec_from_file_location("predict_tool", ROOT / "tools" / "predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(list(map(str, arguments)))


def test_a_broken_picture_is_told_and_the_others_are_drawn(run_folder, rendered, tmp_path, capsys):
    good = pictures_of(rendered)[:2]
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    for index, path in enumerate(good):
        Image.open(path).save(folder / f"{index}.png")
    weights, found = run_folder / "model_final.pth", tmp_path / "found.json"
    arguments = ("--weights", weights, "--output", tmp_path / "out", "--json", found, "--threshold", THRESHOLD)
    assert tool(*arguments, "--input", folder) == 2
    out, err = capsys.readouterr()
    assert "1 of 3 pictures were left out" in err and "broken.jpg" in err and "objects in 2 pictures" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "1.png"]
    records = json.loads(found.read_text())
    assert [record["file_name"] for record in records] == [str(folder / "0.png"), str(folder / "1.png")]
    predictor = Predictor(weights, threshold=THRESHOLD)
    for record in records:
        expected = predictor(record["file_name"])
        assert record["objects"] == expected.to_dict(NAMES)["objects"] and record["objects"]
        assert all(thing["name"] in NAMES and thing["score"] > THRESHOLD for thing in record["objects"])
    assert tool(*arguments, "--input", folder / "0.png") == 0


def test_nothing_found_is_said_with_what_helps(run_folder, rendered, tmp_path, capsys):
    arguments = ("--weights", run_folder / "model_final.pth", "--input", pictures_of(rendered)[0])
    assert tool(*arguments, "--output", tmp_path / "out", "--threshold", 1) == 0
    assert "0 objects in 1 pictures" in (out := capsys.readouterr().out) and "--threshold" in out
    assert tool(*arguments, "--threshold", 2) == 2


def test_an_output_that_can_not_be_written_is_found_before_the_work(run_folder, rendered, tmp_path, capsys):
    (tmp_path / "file").touch()
    arguments = ("--weights", run_folder / "model_final.pth", "--input", pictures_of(rendered)[0])
    assert tool(*arguments, "--output", tmp_path / "file") != 0
    assert "a file is in the folder's place" in capsys.readouterr().err
    assert tool(*arguments, "--output", tmp_path / "out", "--json", run_folder) != 0
    assert "a folder is in the file's place" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
    assert tool("--weights", run_folder, "--input", pictures_of(rendered)[0]) == 2
    assert "is a folder; name the checkpoint in it" in capsys.readouterr().err


def test_no_drawn_picture_overwrites_another():
    assert output_paths(["in/a.bmp", "in/a.bmp.png", "in/b.png"], "out") == [
        "out/a.bmp.png", "out/a.bmp.png.png", "out/b.png",
    ]  # fmt: skip
