"""Pictures: what is drawn and written is what the model finds, and a broken one stops nothing."""

import json
import logging
import os
import shutil

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.utils.visualizer import ColorMode, Visualizer
from PIL import Image
from pycocotools import mask as mask_util

from balanced_lvis.data.images.decoding import image_suffixes
from balanced_lvis.drawing import objects as drawing
from balanced_lvis.engine.checkpoints.identity import Identity
from balanced_lvis.prediction import predictor as prediction
from balanced_lvis.prediction.input_images import find_images, output_paths
from balanced_lvis.prediction.predictor import Predictor
from balanced_lvis.utils.errors import InputError
from tests.common import SHARED_CASES, SHARED_DATA, load_tool

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
    return Predictor.from_checkpoint(run_folder / "model_final.pth", threshold=THRESHOLD)


def test_a_number_of_classes_that_is_left_to_the_data_is_asked_for(run_folder):
    opts = ["MODEL.ROI_HEADS.NUM_CLASSES", "0"]
    with pytest.raises(InputError, match=r"NUM_CLASSES is 0 in .*config\.yaml"):
        Predictor.from_checkpoint(run_folder / "model_final.pth", opts=opts)


def pictures_of(rendered):
    return sorted(map(str, rendered.glob("val/*.jpg")))


def test_a_prediction_is_that_of_detectron2s_predictor(predictor, run_folder, rendered):
    cfg = predictor.cfg.clone()
    cfg.MODEL.WEIGHTS = str(run_folder / "model_final.pth")
    cfg.DATASETS.TEST = ()
    theirs = DefaultPredictor(cfg)
    for path in pictures_of(rendered)[:3]:
        ours = predictor.predict(path)
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
    faster = Predictor.from_checkpoint(run_folder / "model_final.pth", opts=opts, threshold=THRESHOLD)
    weight = faster._model.backbone.fpn_output2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    path = pictures_of(rendered)[0]
    found, expected = faster.predict(path), predictor.predict(path)
    assert len(expected.scores) > 0
    np.testing.assert_allclose(found.scores[:5], expected.scores[:5], rtol=1e-3)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"COMPILE_BACKBONE is True, which needs a C\+\+ compiler"):
        Predictor.from_checkpoint(run_folder / "model_final.pth", opts=["MODEL.COMPILE_BACKBONE", "True"])


def test_names_come_from_the_checkpoint_and_the_config_from_its_folder(predictor, run_folder):
    assert predictor.class_names == NAMES
    (run_folder / "ema").mkdir()  # where training leaves averaged weights
    shutil.copy(run_folder / "model_final.pth", run_folder / "ema")
    assert Predictor.from_checkpoint(run_folder / "ema" / "model_final.pth").class_names == NAMES
    (run_folder / "config.yaml").unlink()
    with pytest.raises(InputError, match="--config-file"):
        Predictor.from_checkpoint(run_folder / "model_final.pth")


def test_a_checkpoint_without_names_takes_those_that_are_given(run_folder, tmp_path):
    content = torch.load(run_folder / "model_final.pth", weights_only=True)
    torch.save(content["model"], run_folder / "bare.pth")
    assert Predictor.from_checkpoint(run_folder / "bare.pth").class_names[3] == "class 3"
    categories = [{"id": i, "name": f"name {i}"} for i in range(12)]
    (tmp_path / "a.json").write_text(json.dumps({"categories": categories}))
    assert (
        Predictor.from_checkpoint(run_folder / "bare.pth", classes=str(tmp_path / "a.json")).class_names[3] == "name 3"
    )
    with pytest.raises(InputError, match="1203 class names for a model of 12"):
        Predictor.from_checkpoint(run_folder / "bare.pth", classes="lvis_v1_val")


def test_a_classifier_of_the_other_family_is_refused(run_folder):
    opts = ["MODEL.ROI_BOX_HEAD.ACTIVATION.NAME", "balanced_softmax"]
    with pytest.raises(InputError, match="trained with a sigmoid activation"):
        Predictor.from_checkpoint(run_folder / "model_final.pth", opts=opts)


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
    ours = Predictor.from_checkpoint(cfg.MODEL.WEIGHTS, threshold=THRESHOLD).predict(path)
    assert len(expected) > 0
    np.testing.assert_array_equal(ours.scores, expected.scores)
    np.testing.assert_array_equal(ours.classes, expected.pred_classes)


def test_a_checkpoint_that_could_run_code_needs_trust(run_folder):
    content = torch.load(run_folder / "model_final.pth", weights_only=True)
    torch.save({**content, "args": _Settings()}, run_folder / "x.pth")
    with pytest.raises(InputError, match="--trust"):
        Predictor.from_checkpoint(run_folder / "x.pth")
    assert Predictor.from_checkpoint(run_folder / "x.pth", trust=True).class_names == NAMES


def test_only_what_was_found_is_drawn(predictor, rendered):
    prediction = predictor.predict(pictures_of(rendered)[0])
    drawn = prediction.draw(NAMES)
    height, width = prediction.pixels.shape[:2]
    assert drawn.dtype == np.uint8 and drawn.shape[0] % height == 0 and drawn.shape[1] % width == 0
    nothing = type(prediction)(prediction.path, prediction.pixels, *(x[:0] for x in (
        prediction.boxes, prediction.scores, prediction.classes)), [])  # fmt: skip
    assert (drawn != nothing.draw(NAMES)).any()


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="real photographs are not at hand")
def test_real_photographs_are_drawn_at_their_size(predictor):
    path = next((SHARED_DATA / "coco_tiny" / "train2017").glob("*.jpg"))
    prediction = predictor.predict(path)
    assert prediction.draw(NAMES).shape == prediction.pixels.shape


def test_a_path_a_pil_image_and_an_array_give_the_same_instances(predictor, rendered):
    path = pictures_of(rendered)[0]
    expected, pixels = predictor.predict(path), np.asarray(Image.open(path).convert("RGB"))
    found = [predictor(path), predictor(Image.open(path)), predictor(pixels, channels="RGB")]
    for instances in [*found, predictor(np.ascontiguousarray(pixels[:, :, ::-1]))]:
        np.testing.assert_array_equal(instances.scores, expected.scores)
        np.testing.assert_array_equal(instances.pred_masks.permute(1, 2, 0), mask_util.decode(expected.masks))
    assert len(expected.scores) > 0 and not np.array_equal(predictor(pixels).scores, expected.scores)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\)"),
        (np.zeros((4, 4, 3)), "type float64"),
        (np.zeros((0, 4, 3), np.uint8), "must be"),
        ([1], "of type list"),
        ("nowhere.jpg", "nowhere.jpg"),
        (Image.new("F", (4, 4)), "PIL image .*floating-point"),
    ],
)
def test_what_is_no_image_is_an_input_error(predictor, image, message):
    with pytest.raises(InputError, match=message):
        predictor(image)
    with pytest.raises(InputError, match="channels is 'GBR'"):
        predictor(np.zeros((4, 4, 3), np.uint8), channels="GBR")


# ------------------------------------------------------------------ which pictures


def test_pictures_are_found_once_by_name_folder_and_pattern(tmp_path):
    for name in ("a/2.jpg", "a/1.PNG", "a/notes.txt", "b/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([tmp_path / "b/1.jpg", tmp_path / "a", f"{tmp_path}/*/1.*"])
    assert [path[len(str(tmp_path)) + 1 :] for path in found] == ["b/1.jpg", "a/1.PNG", "a/2.jpg"]
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tmp_path / "c.jpg", f"{tmp_path}/*.jpg"):
        with pytest.raises(InputError, match=r"--input .*(doesn't exist|has no image files)"):
            find_images([wrong])


def test_pictures_of_one_name_are_drawn_apart_and_never_over_what_is_read(tmp_path):
    paths = [str(tmp_path / name) for name in ("a/1.jpg", "b/1.jpg", "b/2.tif")]
    assert output_paths(paths, "out") == ["out/a/1.jpg", "out/b/1.jpg", "out/b/2.tif.png"]
    with pytest.raises(InputError, match="overwrite"):
        output_paths(paths[:1], tmp_path / "a")


# ------------------------------------------------------------------ the tool


def tool(*arguments):
    return load_tool("predict").main(list(map(str, arguments)))


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
    assert "1 of 3 images were skipped" in err and "broken.jpg" in err and "objects in 2 images" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "1.png"]
    records = json.loads(found.read_text())
    assert [record["file_name"] for record in records] == [str(folder / "0.png"), str(folder / "1.png")]
    predictor = Predictor.from_checkpoint(weights, threshold=THRESHOLD)
    for record in records:
        expected = predictor.predict(record["file_name"])
        assert record["objects"] == expected.to_dict(NAMES)["objects"] and record["objects"]
        assert all(thing["name"] in NAMES and thing["score"] > THRESHOLD for thing in record["objects"])
    assert tool(*arguments, "--input", folder / "0.png") == 0


def test_nothing_found_is_said_with_what_helps(run_folder, rendered, tmp_path, capsys):
    arguments = ("--weights", run_folder / "model_final.pth", "--input", pictures_of(rendered)[0])
    assert tool(*arguments, "--output", tmp_path / "out", "--threshold", 1) == 0
    assert "0 objects in 1 images" in (out := capsys.readouterr().out) and "--threshold" in out
    assert tool(*arguments, "--threshold", 2) == 2


def test_an_output_that_can_not_be_written_is_found_before_the_work(run_folder, rendered, tmp_path, capsys):
    (tmp_path / "file").touch()
    arguments = ("--weights", run_folder / "model_final.pth", "--input", pictures_of(rendered)[0])
    assert tool(*arguments, "--output", tmp_path / "file") != 0
    assert "a file has this name" in capsys.readouterr().err
    assert tool(*arguments, "--output", tmp_path / "out", "--json", run_folder) != 0
    assert "a folder has this name" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
    assert tool("--weights", run_folder, "--input", pictures_of(rendered)[0]) == 2
    assert "is a folder; give the checkpoint in it" in capsys.readouterr().err


def test_no_drawn_picture_overwrites_another():
    assert output_paths(["in/a.bmp", "in/a.bmp.png", "in/b.png"], "out") == [
        "out/a.bmp.png", "out/a.bmp.png.png", "out/b.png",
    ]  # fmt: skip


# ------------------------------------------------------------------ one image costs itself only

ODD_NAMES = [
    "$x", "a$_$b", "esc\x1b[31mred", "new\n[11/25 00:00:00 x]: forged", "half \ud800", "\u732b", "<b>bold</b>",
    "a/../b", "x" * 500, "|pipe|", "\u202eright to left", "^{",
]  # fmt: skip


def save_noise(path, height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def named(run_folder, names):
    content = torch.load(run_folder / "model_final.pth", weights_only=True)
    content[Identity.KEY] = Identity(names, "sigmoid", "an end-to-end training").state_dict()
    torch.save(content, run_folder / "model_final.pth")
    return run_folder / "model_final.pth"


@pytest.mark.parametrize(("height", "width"), [(20, 3000), (3000, 20), (1, 1), (1, 8000), (8000, 1)])
def test_images_of_any_shape_are_predicted_and_drawn_whatever_classes_are_called(run_folder, tmp_path, height, width):
    predictor = Predictor.from_checkpoint(named(run_folder, ODD_NAMES), threshold=THRESHOLD)
    found = predictor.predict(save_noise(tmp_path / "a.png", height, width))
    found.boxes, found.scores, found.classes = found.boxes[:12], found.scores[:12], found.classes[:12]
    found.masks = found.masks[:12]
    assert len(found.scores) and (found.boxes[:, 2] <= width).all() and (found.boxes[:, 3] <= height).all()
    drawn = found.draw(predictor.class_names)
    assert drawn.shape[0] % height == 0 and drawn.shape[0] // height == drawn.shape[1] // width
    assert max(drawn.shape) <= max(height, width, drawing.LONGEST_ENLARGED)
    assert json.loads(json.dumps(found.to_dict(ODD_NAMES)))["objects"][0]["name"] in ODD_NAMES


@pytest.mark.skipif(not SHARED_CASES.is_dir(), reason="the reported inputs are not available")
def test_the_reported_strip_is_predicted(predictor):
    found = predictor.predict(SHARED_CASES / "strip.jpg")
    assert found.draw(NAMES).shape == (20, 3000, 3)


def test_a_very_large_image_is_drawn_reduced_with_its_objects_in_place(monkeypatch):
    monkeypatch.setattr(drawing, "MOST_DRAWN", 600 * 900)
    mask = np.zeros((1200, 1800), np.uint8, order="F")
    mask[400:800, 600:1200] = 1
    boxes = np.array([[600, 400, 1200, 800]], np.float32)
    pixels = np.full((1200, 1800, 3), 255, np.uint8)
    masks = [mask_util.encode(mask)]
    drawn = drawing.draw_objects(pixels, boxes, masks, ["cat 0.90"], [(0.9, 0.1, 0.1)], ("sans-serif",))
    assert drawn.shape == (600, 900, 3)
    coloured = (drawn.astype(int).max(axis=2) - drawn.min(axis=2)) > 30
    rows, columns = np.flatnonzero(coloured.any(axis=1)), np.flatnonzero(coloured.any(axis=0))
    np.testing.assert_allclose([rows[0], rows[-1], columns[0], columns[-1]], [200, 400, 300, 600], atol=4)


def test_one_mask_at_a_time_draws_what_detectron2_draws_of_all(predictor, rendered):
    found = predictor.predict(pictures_of(rendered)[0])
    pixels, colors = found.pixels, [drawing.class_color(c) for c in found.classes.tolist()]
    scale = drawing._enlargement(*pixels.shape[:2])
    labels = [f"{i}" for i in range(len(found.scores))]
    theirs = Visualizer(pixels, scale=scale, instance_mode=ColorMode.SEGMENTATION).overlay_instances(
        boxes=found.boxes, masks=found.masks, labels=labels, assigned_colors=colors
    )
    ours = drawing.draw_objects(pixels, found.boxes, found.masks, labels, colors, ("sans-serif",))
    np.testing.assert_array_equal(ours, theirs.get_image())


def test_whatever_goes_wrong_with_an_image_costs_only_that_image(run_folder, rendered, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.open(pictures_of(rendered)[0]).save(folder / "good.png")
    save_noise(folder / "z_strip.png", 20, 3000)
    content = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    (folder / "eps.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 12\n%%EndComments\n")
    (folder / "new\nline\x1b[31m.jpg").write_bytes(b"text")
    os.mkfifo(folder / "fifo.jpg")
    save_noise(folder / "bomb.png", 40, 3000)
    save_noise(folder / "model.png", 30, 31)
    save_noise(folder / "undrawn.png", 30, 32)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 3000 // 2 - 1)
    ours, draw = Predictor.predict, prediction.draw_objects

    def failing(self, path):
        if path.endswith("model.png"):
            raise RuntimeError("CUDA out of memory\nof this size")
        return ours(self, path)

    def failing_draw(pixels, *arguments):
        if pixels.shape[:2] == (30, 32):
            raise MemoryError
        return draw(pixels, *arguments)

    monkeypatch.setattr(Predictor, "predict", failing)
    monkeypatch.setattr(prediction, "draw_objects", failing_draw)
    found = tmp_path / "found.json"
    arguments = ("--weights", run_folder / "model_final.pth", "--output", tmp_path / "out", "--json", found)
    assert tool(*arguments, "--threshold", 0.2, "--input", folder) == 2
    out, err = capsys.readouterr()
    names = {os.path.basename(record["file_name"]) for record in json.loads(found.read_text())}
    assert names == {"good.png", "z_strip.png", "undrawn.png"}
    assert sorted(os.listdir(tmp_path / "out")) == ["good.png", "z_strip.png"]
    assert "6 of 9 images were skipped" in err and "1 of 9 images could not be drawn" in err
    for words in (
        "cut.png can't be read",
        "eps.jpg is not an image",
        "fifo.jpg is a FIFO",
        "exceeds limit",
        "CUDA out of",
    ):
        assert words in err
    assert "new\\nline\\x1b[31m.jpg is not an image" in err and "\x1b[31m.jpg" not in out + err


def test_a_full_disk_ends_it_with_its_status_and_the_json_of_what_was_predicted(
    run_folder, rendered, tmp_path, capsys, monkeypatch
):
    def full(self, class_names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prediction.Prediction, "draw", full)
    found = tmp_path / "found.json"
    arguments = ("--weights", run_folder / "model_final.pth", "--output", tmp_path / "out", "--json", found)
    assert tool(*arguments, "--input", *pictures_of(rendered)[:2]) == 4
    assert "the disk is full" in capsys.readouterr().err
    assert len(json.loads(found.read_text())) == 1


def test_a_folder_is_read_for_every_raster_format_and_what_is_left_out_is_named(tmp_path, caplog):
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    (folder / "a folder.jpg").mkdir()
    images = ["1.jpg", "2.JPEG", "3.gif", "4.ppm", "5.tga", "6.jfif", "7.jp2", "8.WebP"]
    others = ["a.txt", "b.pdf", "c.eps", "d\n\x1b[31m", "e.mp4", "f.npy"]
    for name in images + others:
        (folder / name).touch()
    assert {os.path.splitext(name)[1].lower() for name in images} <= image_suffixes()
    with caplog.at_level(logging.WARNING):
        assert [os.path.basename(path) for path in find_images([folder])] == images
    assert caplog.messages[0].endswith(
        "6 file(s) without an image suffix skipped: a.txt, b.pdf, c.eps, d\\n\\x1b[31m, e.mp4, ..."
    )
    assert caplog.messages[1].endswith("2 folder(s) skipped: a folder.jpg, more")


def test_drawn_files_have_names_that_any_file_system_takes(tmp_path):
    paths = [str(tmp_path / name) for name in ("a\n.jpg", "a\x1b.jpg", "b" * 240 + ".tif", "c:d.png")]
    outputs = output_paths(paths, "out")
    assert outputs[:2] == ["out/a_.jpg", "out/a_.jpg.png"] and outputs[3] == "out/c_d.png"
    assert outputs[2].endswith(".tif.png") and len(os.path.basename(outputs[2])) < 220
    (tmp_path / "out" / "1.jpg").mkdir(parents=True)
    with pytest.raises(InputError, match="has a folder at"):
        output_paths([str(tmp_path / "1.jpg")], tmp_path / "out")
