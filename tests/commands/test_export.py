"""A checkpoint's submission as a user makes it: by one process or several, at once or after being killed."""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from balanced_lvis.commands import export_checkpoint as module
from balanced_lvis.commands import jobs
from balanced_lvis.commands.train import main
from balanced_lvis.console.command_line import quiet
from balanced_lvis.console.signals import INTERRUPTED
from balanced_lvis.engine.processes.watchdog import Limits
from balanced_lvis.evaluation.lvis_api import IOU_TYPES, LVIS, evaluate_on_lvis
from tests import programs
from tests.commands.mask_head import randomize_mask_head
from tests.common import CONFIGS, ROOT, load_tool, rendered_opts

CONFIG = CONFIGS / "quick_start" / "balanced_sigmoid.yaml"
VAL = "rendered_val"  # 12 images
# What a training of a few iterations finds is of low scores.
OPTS = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]


def command(tool, *words) -> list[str]:
    return [*map(str, (ROOT / "tools" / tool, *words))]


def run(words) -> subprocess.CompletedProcess:
    return programs.run(*words)


@pytest.fixture(scope="module")
def trained(rendered, tmp_path_factory):
    """A training of a few iterations, and the evaluation of it on val with masks of all kinds."""
    output = tmp_path_factory.mktemp("trained")
    opts = [*rendered_opts(rendered, output), *OPTS]
    done = run(command("train_net.py", "--config-file", CONFIG, *opts, "SOLVER.MAX_ITER", 40, "DATASETS.TEST", "()"))
    assert done.returncode == 0, done.stderr[-3000:]
    path = output / "model_final.pth"
    randomize_mask_head(path)
    done = run(command("train_net.py", "--config-file", CONFIG, "--eval-only", *opts, "MODEL.WEIGHTS", path))
    assert done.returncode == 0, done.stderr[-3000:]
    return output


def words_of(rendered, trained, output, *flags, dataset=VAL, weights=None, opts=()) -> list[str]:
    flags = ("--dataset", dataset, "--output", output, "--chunk", 2, *flags)
    weights = weights or trained / "model_final.pth"
    opts = [*rendered_opts(rendered, output)[:-2], *OPTS, "MODEL.WEIGHTS", weights, *opts]
    return command("export_submission.py", "--config-file", CONFIG, *flags, *opts)


@pytest.fixture(scope="module")
def exported(rendered, trained, tmp_path_factory):
    """By a new Python."""
    output = tmp_path_factory.mktemp("exported")
    command = [sys.executable, *words_of(rendered, trained, output)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return output, done


def files_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.json*")}


def test_a_mask_file_has_no_boxes_and_a_box_file_no_masks(exported):
    output, done = exported
    masks, boxes = (json.loads((output / f"{VAL}_{task}.json").read_text()) for task in ("segm", "bbox"))
    assert masks and boxes
    assert all(set(record) == {"image_id", "category_id", "score", "segmentation"} for record in masks)
    assert all(set(record) == {"image_id", "category_id", "score", "bbox"} for record in boxes)
    assert {record["category_id"] for record in boxes} <= set(range(1, 13))
    assert f"{VAL}_segm.json: {len(masks):,} detections in 12 images" in done.stdout
    names = sorted(path.name for path in output.iterdir())
    assert names == [".lock", "log.txt", f"{VAL}_bbox.json", f"{VAL}_segm.json"]


def test_the_official_api_finds_the_numbers_of_the_evaluation_in_the_files(exported, trained, rendered):
    output, _ = exported
    expected = json.loads((trained / "evaluation" / "results.json").read_text())
    assert expected["bbox"]["AP"] > 0
    for task in IOU_TYPES:
        lvis_gt = LVIS(str(next(rendered.glob("**/*val*.json"))))
        records = json.loads((output / f"{VAL}_{task}.json").read_text())
        found, _ = evaluate_on_lvis(lvis_gt, records, task)
        assert json.loads(json.dumps(found).replace("NaN", "null")) == {k: expected[task][k] for k in found}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_write_the_same_files(exported, rendered, trained, tmp_path, processes):
    done = run(words_of(rendered, trained, tmp_path, "--num-gpus", processes, "--chunk", 3))
    assert done.returncode == 0, done.stderr[-3000:]
    assert files_of(tmp_path) == files_of(exported[0])


def test_a_killed_export_goes_on_to_the_same_files(exported, rendered, trained, tmp_path):
    words = words_of(rendered, trained, tmp_path)
    chunks = tmp_path / module.CHUNKS
    with programs.Program(*words) as process:
        while not list(chunks.glob("00000?")) and process.poll() is None:
            time.sleep(0.02)
    before = sorted(path.name for path in chunks.glob("00000?"))
    assert before
    shutil.copytree(chunks / before[0], chunks / "000005.partial", dirs_exist_ok=True)  # as a kill in the midst leaves
    done = run(words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Resuming: {2 * len(before)} of 12 images are done" in done.stdout or len(before) == 6
    assert files_of(tmp_path) == files_of(exported[0])
    assert not chunks.exists()


# ------------------------------------------------------------------ in this process


def export_here(rendered, trained, output, *flags, **changes) -> int:
    """The tool, in this process."""
    words = words_of(rendered, trained, output, *flags, **changes)[1:]
    parser = __import__("runpy").run_path(str(ROOT / "tools" / "export_submission.py"))
    quiet()
    return parser["main"](words)


def test_other_limits_of_the_watchdog_continue_the_same_export(tiny_cfg, tmp_path):
    (tmp_path / "model.pth").write_bytes(b"weights")
    tiny_cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    before = module._origin(tiny_cfg)
    tiny_cfg.WATCHDOG.TIMEOUT = 17.0
    assert module._origin(tiny_cfg) == before


def test_a_zip_holds_the_file(exported, rendered, trained, tmp_path):
    assert export_here(rendered, trained, tmp_path, "--zip") == 0
    for task in IOU_TYPES:
        name = f"{VAL}_{task}.json"
        with zipfile.ZipFile(tmp_path / f"{name}.zip") as archive:
            assert archive.namelist() == [name]
            assert archive.read(name) == (exported[0] / name).read_bytes()


def test_a_data_set_without_annotations_is_exported(rendered, trained, tmp_path):
    assert export_here(rendered, trained, tmp_path, dataset="rendered_test_dev") == 0
    assert json.loads((tmp_path / "rendered_test_dev_segm.json").read_text())


def interrupt(monkeypatch, chunks: int):
    """Let an export fail after this many chunks."""
    write, calls = module.OutputWriter.write, []

    def fail(*args):
        calls.append(args)
        if len(calls) > 2 * chunks:
            raise KeyboardInterrupt
        write(*args)

    monkeypatch.setattr(module.OutputWriter, "write", fail)


def test_detections_of_something_else_are_not_continued(rendered, trained, tiny_cfg, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        assert export_here(rendered, trained, tmp_path) == INTERRUPTED
    assert sorted(os.listdir(tmp_path / module.CHUNKS)) == ["000000", "000001", "origin.json"]
    torch.manual_seed(1)
    DetectionCheckpointer(build_model(tiny_cfg), str(tmp_path)).save("other")
    others = {
        "checkpoint": {"weights": tmp_path / "other.pth"},
        "config": {"opts": ["MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.4]},
        "dataset": {"dataset": "rendered_test_dev"},
    }
    for name, change in others.items():
        assert export_here(rendered, trained, tmp_path, **change) == 2
        error = capsys.readouterr().err
        assert f"an interrupted export with another {name}" in error and "delete that folder" in error
    assert export_here(rendered, trained, tmp_path, opts=["DATALOADER.NUM_WORKERS", 1]) == 0


@pytest.mark.parametrize("name", ["scores", "masks"])
def test_a_chunk_that_lost_bytes_is_made_again(exported, rendered, trained, tmp_path, monkeypatch, capsys, name):
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        assert export_here(rendered, trained, tmp_path) == INTERRUPTED
    path = tmp_path / module.CHUNKS / "000001" / name
    os.truncate(path, path.stat().st_size // 2)
    capsys.readouterr()
    assert export_here(rendered, trained, tmp_path) == 0
    assert "1 of 3 chunks" in "".join(capsys.readouterr())
    assert files_of(tmp_path) == files_of(exported[0])


def test_what_is_exported_is_valid_and_what_is_not_is_told(exported, rendered, tmp_path, capsys):
    annotations = str(next(rendered.glob("**/*val*.json")))
    path = exported[0] / f"{VAL}_segm.json"
    tool = load_tool("export_submission").main
    words = ["--dataset", annotations, "--strict", "--validate"]
    assert tool([*words, str(path)]) == 0
    assert "no problem found" in capsys.readouterr().out
    (tmp_path / "cut.json").write_bytes(path.read_bytes()[:-10])
    assert tool([*words, str(tmp_path / "cut.json")]) == 2
    shown = capsys.readouterr()
    assert "error: 1 file that is not a complete JSON list" in shown.out
    assert "cut.json is not a valid submission" in shown.err
    assert tool(["--dataset", "lvis_v1_vall", "--validate", str(path)]) == 2
    assert "Did you mean 'lvis_v1_val'" in capsys.readouterr().err


def evaluate_here(rendered, output, *flags, opts=()) -> int:
    """``tools/train_net.py`` in this process."""
    words = ["--config-file", CONFIG, *flags, *rendered_opts(rendered, output), *opts]
    return main([*map(str, words)])


@pytest.mark.parametrize("backend", ["fast", "official"])
def test_a_results_file_has_the_numbers_of_its_model(exported, rendered, trained, tmp_path, backend):
    expected = json.loads((trained / "evaluation" / "results.json").read_text())
    files = {
        exported[0] / f"{VAL}_segm.json": ["segm"],
        exported[0] / f"{VAL}_bbox.json": ["bbox"],
        trained / "evaluation" / "inference" / "lvis_instances_results.json": ["bbox", "segm"],
    }
    for path, tasks in files.items():
        flags = ("--eval-only", "--predictions", path)
        assert evaluate_here(rendered, tmp_path, *flags, opts=["TEST.LVIS_BACKEND", backend]) == 0
        found = json.loads((tmp_path / "evaluation" / "results.json").read_text())
        assert found == {task: expected[task] for task in tasks}
        assert os.listdir(tmp_path / "evaluation" / "inference") == ["per_category_ap.json"]


@pytest.mark.parametrize(
    ("flags", "opts", "words"),
    [
        ((), (), "add --eval-only"),
        (("--eval-only", "--num-gpus", "2"), (), "runs in one process, not 2"),
        (("--eval-only",), (), "x.json can't be read"),
        (("--eval-only",), ("DATASETS.TEST", "('rendered_val', 'rendered_test_dev')"), "on one dataset"),
        (("--eval-only",), ("DATASETS.TEST", "('rendered_vall',)"), "neither a file nor a registered dataset"),
    ],
)
def test_what_a_results_file_cannot_be_evaluated_with_is_told(rendered, tmp_path, capsys, flags, opts, words):
    file = ("--predictions", tmp_path / "x.json")
    assert evaluate_here(rendered, tmp_path / "out", *flags, *file, opts=opts) == 2
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert words in error


def test_every_batch_is_a_sign_of_life_to_the_watchdog_whose_limits_are_the_configs(
    rendered, trained, tmp_path, monkeypatch
):
    noted, limits, launch = [], [], jobs.launch

    def launch_with(*arguments):
        limits.append(arguments[-1])
        launch(*arguments)

    monkeypatch.setattr(module, "note", lambda stage, **how: noted.append(stage))
    monkeypatch.setattr(jobs, "launch", launch_with)
    assert export_here(rendered, trained, tmp_path, opts=("WATCHDOG.TIMEOUT", "7.0")) == 0
    assert noted == [*["detecting"] * 12, "waiting for the detections of other processes", "writing the submission"]
    assert limits == [Limits(7.0)]
