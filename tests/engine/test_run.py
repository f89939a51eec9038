"""Runs as a user starts them: train, resume, evaluate, on one process and on two."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from balanced_lvis.commands.train import argument_parser
from balanced_lvis.config import load_config
from balanced_lvis.engine.checkpoints.weights import load_for_evaluation
from balanced_lvis.engine.run import check, read_config
from balanced_lvis.evaluation.lvis_api import METRICS
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from tests import programs
from tests.common import CONFIGS, ROOT, rendered_opts

CONFIG = CONFIGS / "quick_start" / "balanced_sigmoid.yaml"


def command_of(root, output, *flags, **overrides) -> list[str]:
    """``tools/train_net.py``; a double underscore in ``overrides`` stands for a dot."""
    opts = rendered_opts(root, output)
    for key, value in overrides.items():
        opts += [key.replace("__", "."), str(value)]
    command = [sys.executable, ROOT / "tools" / "train_net.py", "--config-file", CONFIG, *flags, *opts]
    return [*map(str, command)]


def train_net(root, output, *flags, **overrides) -> subprocess.CompletedProcess:
    """:func:`command_of` in a forked process."""
    return programs.run(*command_of(root, output, *flags, **overrides)[1:])


def losses(output: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return {line["iteration"]: line["total_loss"] for line in lines if "total_loss" in line}


@pytest.fixture(scope="module")
def trained(rendered, tmp_path_factory):
    """A finished training run and its output, in a new Python."""
    output = tmp_path_factory.mktemp("trained")
    command = command_of(rendered, output, SOLVER__MAX_ITER=4, SOLVER__CHECKPOINT_PERIOD=2)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return output, done


def test_training_writes_checkpoint_config_and_results(trained):
    output, _ = trained
    assert (output / "model_final.pth").is_file()
    assert load_config(output / "config.yaml").MODEL.ROI_HEADS.NUM_CLASSES == 12
    assert ClassPrior.load(output / "class_prior.json").num_classes == 12
    results = json.loads((output / "results.json").read_text())
    assert set(results) == {"bbox", "segm"}
    for task in results.values():
        assert set(METRICS) == set(task)
    categories = json.loads((output / "inference" / "per_category_ap.json").read_text())
    assert len(categories) == 12
    assert {"id", "name", "frequency", "image_count", "bbox", "segm"} == set(categories[0])


def test_the_screen_is_calm(trained):
    _, done = trained
    assert done.stderr == ""
    assert "Warning" not in done.stdout
    assert "Distribution of instances" not in done.stdout
    assert re.search(r"eta: .*total_loss: .*loss_cls", done.stdout)
    assert re.search(r"AP *\|.*APr *\|.*APc *\|.*APf", done.stdout)
    assert len(done.stdout.splitlines()) < 80, done.stdout


def test_eval_only_gives_the_numbers_of_the_training_run(trained, rendered, tmp_path):
    output, _ = trained
    done = train_net(rendered, tmp_path, "--eval-only", MODEL__WEIGHTS=output / "model_final.pth")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "evaluation" / "results.json").read_text() == (output / "results.json").read_text()


def files_of(folder: Path) -> dict[str, bytes]:
    """All files of a training run, without those of later evaluations."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in files.items() if name.parts[0] != "evaluation"}


def test_an_evaluation_in_the_folder_of_a_training_run_leaves_its_files_as_they_are(trained, rendered, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    before = files_of(run)
    detections = run / "inference" / "lvis_instances_results.json"
    other = {"MODEL__WEIGHTS": run / "model_0000001.pth", "TEST__DETECTIONS_PER_IMAGE": 5}
    done = train_net(rendered, run, "--eval-only", **other)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Results written to {run / 'evaluation' / 'results.json'}" in done.stdout
    assert load_config(run / "evaluation" / "config.yaml").TEST.DETECTIONS_PER_IMAGE == 5
    of_model = (run / "evaluation" / "results.json").read_bytes()
    assert of_model != before["results.json"]
    done = train_net(rendered, run, "--eval-only", "--predictions", detections)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (run / "evaluation" / "results.json").read_bytes() == before["results.json"]
    assert files_of(run) == before


def test_resuming_continues_where_the_checkpoint_was_written(trained, rendered, tmp_path):
    output, _ = trained
    shutil.copy(output / "model_0000001.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    done = train_net(rendered, tmp_path, "--resume", SOLVER__MAX_ITER=4)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Starting training from iteration 2" in done.stdout
    resumed, straight = (torch.load(p / "model_final.pth", weights_only=True) for p in (tmp_path, output))
    assert resumed["trainer"]["iteration"] == straight["trainer"]["iteration"] == 3
    assert resumed["trainer"]["hooks"] == straight["trainer"]["hooks"]  # the learning-rate schedule among them


def test_resuming_a_finished_run_evaluates_it_again(trained, rendered, tmp_path):
    output, _ = trained
    shutil.copytree(output, tmp_path / "copy")
    (tmp_path / "copy" / "results.json").unlink()
    done = train_net(rendered, tmp_path / "copy", "--resume", SOLVER__MAX_ITER=4)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "copy" / "results.json").read_text() == (output / "results.json").read_text()


def test_the_same_seed_gives_the_same_losses(trained, rendered, tmp_path):
    output, _ = trained
    assert train_net(rendered, tmp_path, SOLVER__MAX_ITER=4).returncode == 0
    assert losses(tmp_path) == losses(output)


def test_two_processes_train_on_the_cpu_and_agree_with_one(rendered, tmp_path):
    """
    The RPN's losses, which are normalised by the number of images, are the same however the images are shared out.

    That is mathematically so when no statistics are taken over a process's batch and nothing is sampled at random. The
    heads' losses are normalised by each process's own number of RoIs, and so differ.
    """
    exact = {
        "MODEL__RESNETS__NORM": "FrozenBN",
        "MODEL__FPN__NORM": "''",
        "MODEL__RPN__BATCH_SIZE_PER_IMAGE": 100_000,
        "MODEL__RPN__POSITIVE_FRACTION": 1.0,
        "SOLVER__MAX_ITER": 1,
    }
    flags = {"one": (), "two": ("--num-gpus", "2", "--dist-url", "auto")}
    for name, arguments in flags.items():
        done = train_net(rendered, tmp_path / name, *arguments, **exact)
        assert done.returncode == 0, done.stderr[-3000:]
        assert json.loads((tmp_path / name / "results.json").read_text())["bbox"]["AP"] >= 0
    assert (tmp_path / "two" / "log.txt.rank1").is_file()
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text().splitlines()[0]) for name in flags)
    for loss in ("loss_rpn_cls", "loss_rpn_loc"):
        assert two[loss] == pytest.approx(one[loss], rel=1e-5), loss
        assert one[loss] > 0


def test_evaluation_on_two_processes_gives_the_same_numbers(trained, rendered, tmp_path):
    output, _ = trained
    flags = ("--eval-only", "--num-gpus", "2", "--dist-url", "auto")
    done = train_net(rendered, tmp_path, *flags, MODEL__WEIGHTS=output / "model_final.pth")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "evaluation" / "results.json").read_text() == (output / "results.json").read_text()


def test_a_checkpoint_is_evaluated_without_the_training_annotations(trained, rendered, tmp_path):
    output, _ = trained
    opts = rendered_opts(rendered, tmp_path)
    arguments = ["--config-file", CONFIG, "--eval-only", *opts, "MODEL.WEIGHTS", output / "model_final.pth"]
    cfg = read_config(argument_parser().parse_args([*map(str, arguments)]))
    assert str(output / "class_prior.json") == cfg.MODEL.CLASS_PRIOR.FILE


def test_averaged_weights_are_evaluated_without_the_training_annotations_too(trained):
    output, _ = trained
    arguments = ["--config-file", str(CONFIG), "--eval-only", "MODEL.WEIGHTS"]
    cfg = read_config(argument_parser().parse_args([*arguments, str(output / "ema" / "model_final.pth")]))
    assert str(output / "class_prior.json") == cfg.MODEL.CLASS_PRIOR.FILE
    cfg = read_config(argument_parser().parse_args([*arguments, str(output / "inference" / "model_final.pth")]))
    assert cfg.MODEL.CLASS_PRIOR.FILE == ""


def test_a_test_set_without_annotations_saves_predictions(trained, rendered, tmp_path):
    output, _ = trained
    overrides = {"MODEL__WEIGHTS": output / "model_final.pth", "DATASETS__TEST": "('rendered_test_dev',)"}
    assert train_net(rendered, tmp_path, "--eval-only", **overrides).returncode == 0
    assert json.loads((tmp_path / "evaluation" / "inference" / "lvis_instances_results.json").read_text())
    assert json.loads((tmp_path / "evaluation" / "results.json").read_text()) == {}


# ------------------------------------------------------------------ bad input, in this process


def refused(*arguments) -> str:
    """The message that refuses a command line before anything is built."""
    args = argument_parser().parse_args([*map(str, arguments)])
    with pytest.raises(InputError) as caught:
        check(read_config(args), args)
    return str(caught.value)


def test_errors_are_one_message_and_status_2():
    done = programs.run(ROOT / "tools" / "train_net.py", "--config-file", "nowhere.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --config-file 'nowhere.yaml' doesn't exist")
    assert len(done.stderr.splitlines()) == 1


def place_lvis(monkeypatch, split, json_file, image_root):
    """Look for LVIS in an empty folder, even if this machine has it."""
    metadata = MetadataCatalog.get(f"lvis_v1_{split}")
    monkeypatch.setitem(metadata.__dict__, "json_file", str(json_file))
    monkeypatch.setitem(metadata.__dict__, "image_root", str(image_root))


@pytest.mark.parametrize("config", ["r101_balanced_sigmoid", "r50_rfs"])
def test_missing_lvis_says_what_is_missing_where_and_how_to_get_it(config, tmp_path, monkeypatch):
    root = tmp_path / "datasets"
    for split in ("train", "val"):
        place_lvis(monkeypatch, split, root / "lvis" / f"lvis_v1_{split}.json", root / "coco")
    message = refused("--config-file", CONFIGS / f"{config}.yaml", "OUTPUT_DIR", tmp_path)
    assert f"{root / 'lvis' / 'lvis_v1_train.json'}" in message
    assert f"{root / 'lvis' / 'lvis_v1_val.json'}" in message
    assert f"{root / 'coco' / 'train2017'}" in message
    assert "https://dl.fbaipublicfiles.com/LVIS/lvis_v1_train.json.zip" in message
    assert "http://images.cocodataset.org/zips/val2017.zip" in message
    assert "DETECTRON2_DATASETS" in message


@pytest.mark.parametrize("value", [0, -8])
@pytest.mark.parametrize("key", ["SOLVER.IMS_PER_BATCH", "SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD"])
def test_numbers_that_a_training_can_not_have_are_refused(rendered, tmp_path, key, value):
    opts = [*rendered_opts(rendered, tmp_path), key, str(value)]
    config = str(CONFIGS / "quick_start" / "balanced_sigmoid.yaml")
    args = argument_parser().parse_args(["--config-file", config, *opts])
    with pytest.raises(InputError, match=rf"{key} is {value}; it must be 1 or more"):
        check(read_config(args), args)


@pytest.fixture
def fake_lvis(tmp_path, monkeypatch):
    """Empty files and folders with the names of LVIS, so that later checks are reached."""
    for split in ("train", "val"):
        (tmp_path / "coco" / f"{split}2017").mkdir(parents=True)
        (tmp_path / f"{split}.json").write_text("{}")
        place_lvis(monkeypatch, split, tmp_path / f"{split}.json", tmp_path / "coco")


def test_weights_that_cannot_be_downloaded_say_where_to_put_the_file(fake_lvis, tmp_path, monkeypatch):
    from detectron2.utils.file_io import PathManager

    def no_network(path, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(PathManager, "get_local_path", no_network)
    config = CONFIGS / "r101_balanced_sigmoid.yaml"
    message = refused("--config-file", config, "OUTPUT_DIR", tmp_path / "out")
    assert "detectron2://ImageNetPretrained/MSRA/R-101.pkl" in message
    assert "Name or service not known" in message
    assert "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-101.pkl" in message
    assert "MODEL.WEIGHTS /path/to/R-101.pkl" in message


@pytest.mark.parametrize(
    ("flags", "overrides", "expected"),
    [
        ((), {"MODEL.WEIGHTS": "nowhere.pth"}, "nowhere.pth was not found"),
        (("--eval-only",), {"MODEL.WEIGHTS": "''"}, "--eval-only needs a checkpoint"),
        ((), {"MODEL.ROI_BOX_HEAD.ACTIVATION.NAME": "balanced_sigmod"}, "Did you mean 'balanced_sigmoid'"),
        ((), {"MODEL.ROI_BOX_HEAD.ACTIVATION.NAM": "x"}, "Did you mean MODEL.ROI_BOX_HEAD.ACTIVATION.NAME?"),
        ((), {"DATASETS.TRAIN": "('rendered_trian',)"}, "Did you mean rendered_train"),
        ((), {"DATASETS.TRAIN": "()"}, "DATASETS.TRAIN is empty"),
        ((), {"DATASETS.TEST": "('coco_2017_val',)"}, "coco_2017_val"),
        ((), {"MODEL.ROI_HEADS.NUM_CLASSES": 13}, "NUM_CLASSES is 13, but dataset rendered_train has 12"),
        ((), {"MODEL.ROI_BOX_HEAD.ACTIVATION.BALANCED_SIGMOID.FORM": "raw"}, "valid: centred, foreground"),
        ((), {"MODEL.CLASS_PRIOR.FILE": "nowhere.json"}, "nowhere.json"),
        ((), {"MODEL.ROI_HEADS.NAME": "StandardROIHeads"}, "ignores MODEL.ROI_BOX_HEAD.ACTIVATION"),
        ((), {"MODEL.ROI_HEADS.NAME": "LongTailHeads"}, "valid: "),
        ((), {"SOLVER.OPTIMIZER": "Adam"}, "SOLVER.OPTIMIZER is 'Adam'; valid: SGD, AdamW"),
        ((), {"TEST.LVIS_BACKEND": "quick"}, "TEST.LVIS_BACKEND is 'quick'; valid: 'fast', 'official'"),
        (("--num-gpus", "3"), {}, "IMS_PER_BATCH is 2, which 3 processes"),
        (("--num-gpus", "0"), {}, "--num-gpus is 0"),
    ],
)
def test_bad_input_is_explained(rendered, tmp_path, flags, overrides, expected):
    opts = rendered_opts(rendered, tmp_path / "out")
    for pair in overrides.items():
        opts += [*map(str, pair)]
    message = refused("--config-file", CONFIG, *flags, *opts)
    assert expected in message


def test_a_checkpoint_of_another_model_lists_tensors_and_shapes(tiny_cfg, tmp_path):
    model = build_model(tiny_cfg)
    tiny_cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    tiny_cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    DetectionCheckpointer(build_model(tiny_cfg), str(tmp_path)).save("other")
    with pytest.raises(InputError) as caught:
        load_for_evaluation(model, str(tmp_path / "other.pth"))
    assert "roi_heads.box_head.fc1.weight: (32, 3136) in the file, (256, 3136) in the model" in str(caught.value)
    assert "roi_heads.mask_head.mask_fcn2.weight: missing in the file" in str(caught.value)
    assert str(caught.value).count("roi_heads.box_head.fc1.weight") == 1


@pytest.mark.parametrize("content", [b"not a checkpoint", None])
def test_a_broken_checkpoint_is_named(tiny_cfg, tmp_path, content):
    model = build_model(tiny_cfg)
    path = tmp_path / "broken.pth"
    if content is None:  # truncated, as by an interrupted copy
        torch.save(model.state_dict(), path)
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.pth' is not a readable checkpoint"):
        load_for_evaluation(model, str(path))


def test_resuming_from_a_checkpoint_that_is_gone_is_explained(rendered, tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    message = refused("--config-file", CONFIG, "--resume", *rendered_opts(rendered, tmp_path))
    assert "no .pth file), and last_checkpoint names 'model_0000009.pth'" in message


def test_bad_input_met_by_several_processes_is_one_message(rendered, tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"\x80\x02not a checkpoint")
    flags = ("--eval-only", "--num-gpus", "2", "--dist-url", "auto")
    done = train_net(rendered, tmp_path, *flags, MODEL__WEIGHTS=tmp_path / "broken.pth")
    assert done.returncode == 2
    assert done.stderr.count("is not a readable checkpoint") == 1, done.stderr
    assert "Traceback" not in done.stderr
