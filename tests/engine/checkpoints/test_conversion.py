"""Checkpoints of other programs become ours and go back, with the same scores, or are refused in words."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from balanced_lvis.config import load_config
from balanced_lvis.data.annotations.class_names import class_names_of
from balanced_lvis.engine.checkpoints.checkpoint_file import read_checkpoint
from balanced_lvis.engine.checkpoints.conversion import convert_checkpoint
from balanced_lvis.engine.checkpoints.identity import Identity
from balanced_lvis.engine.checkpoints.weights import load_for_evaluation
from balanced_lvis.utils.errors import InputError, StorageError
from tests.common import CONFIGS, SHARED_DATA, load_tool, rendered_opts

K = 12
CLASSIFIER = "roi_heads.box_predictor.cls_score"


@pytest.fixture
def model(tiny_cfg):
    built = build_model(tiny_cfg).eval()
    torch.nn.init.normal_(built.roi_heads.box_predictor.cls_score.weight, std=0.5)
    return built


def without_background(state):
    return {name: value[:-1] if name.startswith(CLASSIFIER) else value for name, value in state.items()}


def saved(path, **content):
    torch.save(content, path)
    return path


def detections(model, images):
    with torch.no_grad():
        return [output["instances"] for output in model(images)]


def image():
    pixels = torch.randint(0, 256, (3, 96, 96), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return [{"image": pixels, "height": 96, "width": 96}]


def test_the_published_layout_of_k_outputs_gives_the_same_detections(tiny_cfg, model, tmp_path):
    published = saved(tmp_path / "balms.pth", model=without_background(model.state_dict()), iteration=90000)
    with pytest.raises(InputError, match=r"cls_score.bias: \(12,\) in the file, \(13,\) in the model") as error:
        load_for_evaluation(build_model(tiny_cfg), str(published))
    assert "balanced-lvis convert" in str(error.value)

    done = convert_checkpoint(published, tmp_path / "ours.pth", class_names=Identity.from_config(tiny_cfg).class_names)
    assert (done.num_classes, done.had_background, done.family) == (K, False, "sigmoid")
    assert done.dropped == ["iteration"]
    again = build_model(tiny_cfg).eval()
    told = load_for_evaluation(again, str(tmp_path / "ours.pth"), Identity.from_config(tiny_cfg))
    assert told.class_names == Identity.from_config(tiny_cfg).class_names
    (ours,), (theirs,) = detections(again, image()), detections(model, image())
    assert len(theirs) > 0
    assert torch.equal(ours.scores, theirs.scores) and torch.equal(ours.pred_classes, theirs.pred_classes)
    assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_there_and_back_keeps_every_bit_that_is_used(model, tmp_path, suffix):
    identity = Identity([f"class {i}" for i in range(K)], "sigmoid", "an end-to-end training")
    start = saved(
        tmp_path / "ours.pth",
        model=model.state_dict(),
        optimizer={"state": {}},
        **{Identity.KEY: identity.state_dict()},
    )
    there = convert_checkpoint(start, tmp_path / f"published.{suffix}", layout="no_background")
    assert there.had_background and not there.has_background and there.dropped == ["optimizer"]
    convert_checkpoint(tmp_path / f"published.{suffix}", tmp_path / f"again.{suffix}")
    published = read_checkpoint(tmp_path / f"published.{suffix}")
    again = read_checkpoint(tmp_path / f"again.{suffix}")
    assert again[Identity.KEY] == identity.state_dict()
    expected, found = model.state_dict(), again["model"]
    assert found.keys() == expected.keys() == published["model"].keys()
    for name, value in expected.items():
        used = slice(None, -1) if name.startswith(CLASSIFIER) else ...
        assert torch.equal(found[name][used], value[used]) and found[name].shape == value.shape, name


def test_detectron2_itself_loads_both_formats(tiny_cfg, model, tmp_path):
    start = saved(tmp_path / "stock.pth", model=model.state_dict())
    for name in ("ours.pth", "ours.pkl"):
        convert_checkpoint(start, tmp_path / name, family="softmax", num_classes=K)
        other = build_model(tiny_cfg)
        incompatible = DetectionCheckpointer(other).load(str(tmp_path / name))
        assert incompatible is not None
        for key, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[key], value), (name, key)


def test_a_model_zoo_pickle_becomes_a_checkpoint_that_tells_its_classes(tiny_cfg, model, tmp_path):
    import pickle

    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    names = [f"class {i}" for i in range(K)]
    convert_checkpoint(tmp_path / "zoo.pkl", tmp_path / "ours.pth", family="softmax", class_names=names)
    with pytest.raises(InputError, match="softmax"):
        load_for_evaluation(build_model(tiny_cfg), str(tmp_path / "ours.pth"), Identity(names, "sigmoid", ""))
    with pytest.raises(InputError, match="other classes"):
        load_for_evaluation(
            build_model(tiny_cfg), str(tmp_path / "ours.pth"), Identity([*names[:-1], "x"], "softmax", "")
        )


def test_what_training_wrapped_the_model_in_is_taken_off_the_names(model, tmp_path):
    wrapped = {f"module._orig_mod.{name}": value for name, value in model.state_dict().items()}
    done = convert_checkpoint(
        saved(tmp_path / "x.pth", model=wrapped), tmp_path / "y.pth", family="sigmoid", num_classes=K
    )
    assert read_checkpoint(tmp_path / "y.pth")["model"].keys() == model.state_dict().keys()
    assert len(done.steps) == 2


def test_scales_of_a_second_stage_are_converted_with_their_classifier(model, tmp_path):
    state = {**model.state_dict(), f"{CLASSIFIER}.scale": torch.arange(K + 1.0)}
    start = saved(tmp_path / "lws.pth", model=state)
    convert_checkpoint(start, tmp_path / "published.pth", family="sigmoid", num_classes=K, layout="no_background")
    convert_checkpoint(tmp_path / "published.pth", tmp_path / "again.pth", num_classes=K)
    scale = read_checkpoint(tmp_path / "again.pth")["model"][f"{CLASSIFIER}.scale"]
    assert scale.tolist() == [*range(K), 1.0]


def agnostic(outputs):
    return {
        f"{CLASSIFIER}.weight": torch.zeros(outputs, 4),
        f"{CLASSIFIER}.bias": torch.zeros(outputs),
        "roi_heads.box_predictor.bbox_pred.bias": torch.zeros(4),
    }


@pytest.mark.parametrize(
    ("model_state", "options", "words"),
    [
        (agnostic(13), {}, "--num-classes"),
        (agnostic(13), {"num_classes": 0}, "at least 1"),
        (agnostic(13), {"num_classes": 20}, "20 classes need 21"),
        (agnostic(13), {"num_classes": 12}, "--activation"),
        (agnostic(12), {"num_classes": 12, "family": "softmax"}, "has no background output"),
        (agnostic(13), {"num_classes": 12, "family": "softmax", "layout": "no_background"}, "can.t represent"),
        (agnostic(13), {"family": "gumbel"}, "valid: sigmoid, softmax"),
        (agnostic(13), {"layout": "mmdetection"}, "valid: balanced_lvis"),
        ({"res2.weight": torch.zeros(1)}, {}, r"1 tensors \(res2.weight, ...\) are not those of a supported model"),
        (agnostic(13) | {"x.weight": torch.tensor([1.0, math.nan])}, {}, "x.weight has values that are NaN"),
        (agnostic(13) | {"x.weight": torch.zeros(1, dtype=torch.int8)}, {}, "x.weight has the type torch.int8"),
        (agnostic(13) | {"x": torch.zeros(1, dtype=torch.complex64)}, {}, "x has the type torch.complex64"),
        (agnostic(4), {"class_names": ["a", "b", "a"], "family": "softmax"}, "2 classes have the name 'a'"),
        ({**agnostic(91), "backbone.body.x": torch.zeros(1)}, {"num_classes": 90}, "a detector of torchvision"),
        (
            {f"roi_heads.box_predictor.{i}.cls_score.bias": torch.zeros(3 + i) for i in range(2)},
            {},
            "different sizes",
        ),
    ],
)  # fmt: skip
def test_what_can_not_be_told_is_refused_and_nothing_is_written(tmp_path, model_state, options, words):
    start = saved(tmp_path / "x.pth", model=model_state)
    with pytest.raises(InputError, match=words):
        convert_checkpoint(start, tmp_path / "y.pth", **options)
    assert not (tmp_path / "y.pth").exists()


def test_a_checkpoint_of_other_classes_than_given_is_refused(tmp_path):
    identity = Identity(["a", "b"], "sigmoid", "an end-to-end training")
    start = saved(tmp_path / "x.pth", model=agnostic(3), **{Identity.KEY: identity.state_dict()})
    with pytest.raises(InputError, match="'b' as class 1, but the dataset has 'c'"):
        convert_checkpoint(start, tmp_path / "y.pth", class_names=["a", "c"])
    with pytest.raises(InputError, match="3 outputs, but 1 classes need 2"):
        convert_checkpoint(start, tmp_path / "y.pth", num_classes=1)
    with pytest.raises(InputError, match="was trained with sigmoid"):
        convert_checkpoint(start, tmp_path / "y.pth", family="softmax")
    with pytest.raises(InputError, match="is the input; choose"):
        convert_checkpoint(start, start)


def test_an_output_that_can_not_be_written_is_told(tmp_path):
    start = saved(tmp_path / "x.pth", model=agnostic(13))
    with pytest.raises(StorageError, match="a parent folder in its path is a file|a file has this name"):
        convert_checkpoint(start, start / "y.pth", num_classes=12, family="sigmoid")


def test_class_names_come_in_the_order_of_ids_from_names_and_files(tmp_path):
    categories = [{"id": 7, "name": "later"}, {"id": 2, "name": "first"}]
    (tmp_path / "a.json").write_text(json.dumps({"images": [], "categories": categories}))
    assert class_names_of(tmp_path / "a.json") == ["first", "later"]
    names = class_names_of("lvis_v1_val")
    assert len(names) == 1203 and names[0] == "aerosol_can"
    with pytest.raises(InputError, match="neither a file nor"):
        class_names_of("lvis_v7")
    (tmp_path / "b.json").write_text('{"categories": [{"id": 1}]}')
    with pytest.raises(InputError, match="categories with id and name"):
        class_names_of(tmp_path / "b.json")


def test_class_names_are_read_behind_a_byte_order_mark_and_a_folder_is_called_one(tmp_path):
    content = json.dumps({"categories": [{"id": 3, "name": "caf\u00e9"}]}, ensure_ascii=False)
    (tmp_path / "c.json").write_text(content, encoding="utf-8-sig")
    assert class_names_of(tmp_path / "c.json") == ["caf\u00e9"]
    (tmp_path / "c.json").write_text(content, encoding="utf-16")
    with pytest.raises(InputError, match="it is not UTF-8; save it as UTF-8"):
        class_names_of(tmp_path / "c.json")
    with pytest.raises(InputError, match=r"\(it is a folder; name the file in it\) .*; give an annotation"):
        class_names_of(tmp_path)


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="real annotations are not at hand")
def test_class_names_of_real_annotations():
    assert class_names_of(SHARED_DATA / "lvis_val_100.json") == class_names_of("lvis_v0.5_val")


def tool():
    return load_tool("convert_checkpoint").main


def test_the_tool_says_what_it_did(model, tmp_path, capsys):
    start = saved(tmp_path / "x.pth", model=without_background(model.state_dict()), optimizer={}, iteration=3)
    (tmp_path / "a.json").write_text(json.dumps({"categories": [{"id": i, "name": f"c{i}"} for i in range(1, K + 1)]}))
    arguments = [str(start), str(tmp_path / "y.pth"), "--classes", str(tmp_path / "a.json")]
    assert tool()(arguments) == 0
    out = capsys.readouterr().out
    assert "added a background output to the classifier" in out and "left out: optimizer, iteration" in out
    assert "12 classes, class names written; sigmoid" in out
    assert tool()([str(start), str(tmp_path / "y.pth"), "--num-classes", "99"]) == 2
    assert "error:" in capsys.readouterr().err


def test_weights_of_a_converted_file_train_a_second_stage(rendered, model, tmp_path):
    """A first stage of EQL's or BALMS's, for cRT, LWS or BALMS here."""
    from balanced_lvis.engine.checkpoints.weights import load_first_stage

    start = saved(tmp_path / "x.pth", model=without_background(model.state_dict()))
    convert_checkpoint(start, tmp_path / "y.pth", num_classes=K)
    cfg = load_config(
        CONFIGS / "quick_start" / "balanced_sigmoid.yaml",
        [*rendered_opts(rendered, tmp_path / "out"), "MODEL.META_ARCHITECTURE", "DecoupledRCNN",
         "MODEL.DECOUPLED.CLASSIFIER", "finetune"],
    )  # fmt: skip
    second = build_model(cfg)
    load_first_stage(second, str(tmp_path / "y.pth"), Identity.from_config(cfg))
    weight = second.state_dict()[f"{CLASSIFIER}.weight"]
    np.testing.assert_array_equal(weight[:K].numpy(), model.state_dict()[f"{CLASSIFIER}.weight"][:K].numpy())
