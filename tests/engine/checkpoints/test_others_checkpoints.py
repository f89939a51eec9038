"""Evaluation and prediction with checkpoints of every layout, and the commands of three pages of the docs."""

import json
import os
import pickle
import re
import shlex
import shutil

import pytest
import torch
import torchvision
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from balanced_lvis.commands.train import argument_parser
from balanced_lvis.config import load_config
from balanced_lvis.engine.checkpoints.conversion import convert_checkpoint
from balanced_lvis.engine.checkpoints.identity import Identity
from balanced_lvis.engine.run import check, read_config, run
from tests.common import CONFIGS, ROOT, load_tool, rendered_opts
from tests.reference_mmdetection import random_state

CONFIG = CONFIGS / "quick_start" / "balanced_sigmoid.yaml"


def model_of(*opts):
    """An untrained model that finds something in anything."""
    torch.manual_seed(0)
    opts = [*map(str, opts), "MODEL.ROI_BOX_HEAD.ACTIVATION.NAME", "sigmoid"]  # which needs no class prior
    model = build_model(load_config(CONFIG, opts))
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    torch.nn.init.zeros_(model.roi_heads.box_predictor.cls_score.bias)
    return model.state_dict()


def without_background(state):
    return {name: value[:-1] if ".cls_score." in name else value for name, value in state.items()}


def identity(names):
    return {Identity.KEY: Identity(names, "sigmoid", "an end-to-end training").state_dict()}


def detections_of(weights, rendered, output):
    """What ``tools/train_net.py --eval-only`` finds, in this process."""
    opts = [*rendered_opts(rendered, output), "MODEL.WEIGHTS", str(weights), "DATASETS.TEST", "('rendered_val',)"]
    args = argument_parser().parse_args(["--config-file", str(CONFIG), "--eval-only", *opts])
    cfg = read_config(args)
    check(cfg, args)
    results = run(cfg, args)
    return results, json.loads((output / "evaluation" / "inference" / "lvis_instances_results.json").read_text())


def test_a_model_evaluates_to_the_same_detections_in_every_layout(rendered, tmp_path):
    state = model_of(*rendered_opts(rendered, tmp_path))
    names = list(MetadataCatalog.get("rendered_val").thing_classes)
    torch.save({"model": state, **identity(names)}, tmp_path / "ours.pth")
    torch.save({"model": state, "optimizer": {}, "iteration": 5}, tmp_path / "stock.pth")
    arrays = {name: value.numpy() for name, value in state.items()}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    torch.save(without_background(state), tmp_path / "published.pth")
    convert_checkpoint(tmp_path / "published.pth", tmp_path / "converted.pth", class_names=names)
    expected = detections_of(tmp_path / "ours.pth", rendered, tmp_path / "ours")
    assert len(expected[1]) > 100
    for name in ("stock.pth", "zoo.pkl", "converted.pth"):
        assert detections_of(tmp_path / name, rendered, tmp_path / name.replace(".", "_")) == expected, name


def test_a_model_is_evaluated_as_of_the_classes_that_it_is_tested_on(tiny_cfg):
    """LVIS-0.5's weights with a config that names LVIS-1.0 for training."""
    tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TEST = ("lvis_v1_train",), ("lvis_v0.5_val",)
    assert len(Identity.from_config(tiny_cfg).class_names) == 1203
    assert len(Identity.from_config(tiny_cfg, evaluation=True).class_names) == 1230


# ------------------------------------------------------------------ the commands of the page

_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def documented():
    """(command, what it prints) of every console block."""
    pages = "".join((ROOT / "docs" / f"{page}.md").read_text() for page in ("checkpoints", "prediction", "backbones"))
    for block in _BLOCK.findall(pages):
        command, _, printed = block.replace("\\\n", "").partition("\n")
        assert command.startswith("$ ")
        yield command[2:], printed


@pytest.fixture
def folder(rendered, tmp_path, monkeypatch):
    """What the page's commands find: another model than its, of fewer classes and tensors."""
    monkeypatch.chdir(tmp_path)
    opts = rendered_opts(rendered, tmp_path / "out")
    state, names = model_of(*opts), list(MetadataCatalog.get("rendered_val").thing_classes)
    run_folder = tmp_path / "output" / "quick_start" / "balanced_sigmoid" / "seed_0"
    run_folder.mkdir(parents=True)
    (run_folder / "config.yaml").write_text(load_config(CONFIG, opts).dump())
    torch.save({"model": state, **identity(names), "trainer": {}, "iteration": 3}, run_folder / "model_final.pth")
    large = without_background(model_of(*opts, "MODEL.ROI_HEADS.NUM_CLASSES", 1203))
    torch.save({"model": large, "iteration": 3, "optimizer": {}}, "balms.pth")
    torch.save({"model": without_background(state)}, "published.pth")
    torch.save({"model": state, "extra": _Attack()}, "untrusted.pth")
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), "resnet50.pth")
    of_mmdetection = {"state_dict": random_state(3, 4), "meta": {"CLASSES": ("a", "b", "c"), "config": _MMDETECTION}}
    torch.save(of_mmdetection, "mask_rcnn_r50_lvis_v1.pth")
    pictures = sorted(rendered.glob("val/*.jpg"))[:3]
    os.mkdir("photos")
    for path in pictures[:2]:
        shutil.copy(path, "photos")
    Image.open(pictures[2]).save("holiday.png")
    (tmp_path / "configs").symlink_to(CONFIGS)
    return opts


_MMDETECTION = "model = dict(type='MaskRCNN', backbone=dict(type='ResNet', style='pytorch'))"


class _Attack:
    def __reduce__(self):
        return os.system, ("touch harm",)


def main_of(tool):
    return load_tool(tool[:-3]).main


def without_numbers(text):
    return re.sub(r"\d+", "#", text).strip()


def test_the_commands_of_the_page_print_what_it_shows(folder, tmp_path, capfd):
    """Up to the numbers, which are those of the model at hand."""
    commands = list(documented())
    assert len(commands) == 8
    for command, printed in commands:
        tool, *arguments = shlex.split(command)
        if tool.endswith("train_net.py"):
            arguments += folder
        status = main_of(os.path.basename(tool))(arguments)
        out, err = capfd.readouterr()
        assert status == (2 if printed.startswith("error:") else 0), command
        assert without_numbers(printed) in without_numbers(out + err), command
    assert not os.path.exists("harm")
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == 3 and all(set(record) == {"file_name", "height", "width", "objects"} for record in found)
    assert set(found[0]["objects"][0]) == {"class", "name", "score", "bbox", "segmentation"}
