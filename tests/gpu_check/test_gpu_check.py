"""The checks of tools/gpu_check.py on the CPU; tests/simulated_cuda runs them on a simulated GPU."""

import json
import os

import pytest
import torch

from gpu_check import CHECKS, Context, exactness, run_checks
from gpu_check import training_checks as training
from gpu_check import verdicts as report
from gpu_check.verdicts import CheckFailedError, CheckSkippedError
from tests.common import ROOT, load_tool


@pytest.fixture
def context(tmp_path):
    return Context("cpu", tmp_path, ROOT, ("balanced_sigmoid",))


def fails(context):
    raise CheckFailedError("a long output\nerror: the reason\n")


def crashes(context):
    raise RuntimeError("CUDA error: an illegal memory access was encountered\n")


def skips(context):
    raise CheckSkippedError("one GPU here")


def test_every_check_has_a_verdict_whatever_the_others_come_to(context):
    checks = {"a": fails, "b": crashes, "c": skips, "d": lambda _: ("all is well", {"number": 1})}
    found = list(run_checks(checks, context))
    assert [(result.name, result.status, result.verdict) for result in found] == [
        ("a", "FAILED", "error: the reason"),
        ("b", "FAILED", "RuntimeError: CUDA error: an illegal memory access was encountered"),
        ("c", "skipped", "one GPU here"),
        ("d", "ok", "all is well"),
    ]
    assert all("\n" not in result.line() for result in found)
    assert "a long output" in found[0].details["error"]


@pytest.mark.parametrize("name", ["environment", "activations", "detections", "pooling", "masks"])
def test_checks_of_this_process_pass_on_the_cpu(context, name):
    (result,) = run_checks({name: CHECKS[name]}, context)
    assert result.status == report.OK, result.verdict


def test_a_wrong_gradient_is_found(context, monkeypatch):
    build = exactness.build_activation

    def wrong(name, *args, **options):
        activation = build(name, *args, **options)
        loss = activation.loss
        activation.loss = lambda x, gt_classes: loss(x, gt_classes) + (0 if next(calls) % 2 else 1e-3 * x.sum())
        return activation

    calls = iter(range(1000))
    monkeypatch.setattr(exactness, "build_activation", wrong)
    with pytest.raises(CheckFailedError, match="of .* differs by up to"):
        exactness.activations(context)


def test_other_detections_and_masks_are_found(context, monkeypatch):
    monkeypatch.setattr(exactness.box_benchmark, "identical", lambda a, b: False)
    with pytest.raises(CheckFailedError, match="detections differ from Detectron2's"):
        exactness.detections(context)
    encode = exactness.masks_to_rle
    monkeypatch.setattr(exactness, "masks_to_rle", lambda masks, *rest: encode(1 - masks, *rest))
    with pytest.raises(CheckFailedError, match="RLE masks differ"):
        exactness.masks(context)


def test_two_processes_need_two_gpus(context, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    on_gpu = Context("cuda", context.folder, ROOT)
    for check in (training.two_ranks, training.slurm):
        with pytest.raises(CheckSkippedError, match="one GPU"):
            check(on_gpu)


def test_a_run_that_fails_is_told_with_its_own_message(context):
    with pytest.raises(CheckFailedError, match=r"status 2: error: .*NO_SUCH"):
        training._train(context, "a", "balanced_sigmoid", {"NO_SUCH.KEY": 1})


def test_losses_that_are_not_finite_are_found(context):
    folder = context.folder / "a"
    folder.mkdir()
    (folder / "results.json").write_text('{"bbox": {}, "segm": {}}')
    (folder / "metrics.json").write_text('{"total_loss": NaN}\n')
    with pytest.raises(CheckFailedError, match="losses are"):
        training._require_results(context, "a")


def test_a_launchers_variables_are_not_those_of_a_check(monkeypatch):
    for name in ("SLURM_PROCID", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    found = training._environment()
    assert not [
        name for name in found if name.startswith(("SLURM", "RANK", "LOCAL", "WORLD", "MASTER", "TORCHELASTIC"))
    ]
    assert found["BALANCED_LVIS_PARENT"] == str(os.getpid())  # child processes end with the check
    assert [training._slurm_environment(rank, 1)["CUDA_VISIBLE_DEVICES"] for rank in (0, 1)] == ["4", "5"]


def test_the_tool_prints_a_line_for_each_check_and_writes_json(tmp_path, capsys):
    tool = load_tool("gpu_check")
    path = tmp_path / "check.json"
    arguments = ["--device", "cpu", "--only", "environment", "activations", "--json", str(path)]
    assert tool.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["ok", "environment"], ["ok", "activations"]]
    assert [result["name"] for result in json.loads(path.read_text())] == ["environment", "activations"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_the_tool_says_so_with_status_1(capsys):
    with pytest.raises(SystemExit, match="1"):
        load_tool("gpu_check").main(["--only", "environment"])
    assert "finds no GPU" in capsys.readouterr().out
