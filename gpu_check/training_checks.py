"""Short training runs on this device: all methods, all precisions, resuming, export, several processes."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import torch

from balanced_lvis.config import load_config
from balanced_lvis.experiments.arguments import choose_methods
from balanced_lvis.experiments.methods import GROUPS, METHODS
from balanced_lvis.experiments.runs import preparations_of
from balanced_lvis.experiments.small_rendered import SMALL_RENDERED, override_words
from balanced_lvis.utils.parent_process import child_environment

from .verdicts import CheckFailedError, CheckSkippedError, Context

ITERATIONS = 2
OPTIONS = {
    "SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": "bfloat16", "SOLVER.ACCUMULATE_BATCHES": 2,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model", "MODEL.EMA.ENABLED": True,
    "MODEL.ACTIVATION_CHECKPOINTING": ("backbone", "box_head"),
}  # fmt: skip


def methods(context: Context):
    """Training and evaluation of each method; others start from the first stages trained here."""
    chosen = [key for key in METHODS if not context.methods or key in context.methods]
    for key in _with_first_stages(chosen):
        method = METHODS[key]
        first = method.first_stage
        overrides = {"MODEL.WEIGHTS": _weights(context, first)} if first else {}
        cfg = load_config(context.root / "configs" / "rendered" / f"{key}.yaml")
        for tool in preparations_of(cfg).values():
            _run(context, f"{tool.replace('-', '_')}.py", key, *_overrides(context, key, overrides))
        if method.evaluates_only:
            _evaluate(context, key, key, overrides)
        else:
            _train(context, key, key, overrides)
    return f"{len(chosen)} methods: {', '.join(chosen)}", {}


def precision(context: Context):
    """float16, bfloat16 and the options of a large run, with Balanced Sigmoid."""
    if context.device == "cuda":
        _train(context, "float16", "balanced_sigmoid", {"SOLVER.AMP.ENABLED": True})
    _train(context, "options", "balanced_sigmoid", OPTIONS)
    tried = ["float16"] * (context.device == "cuda") + ["bfloat16 with accumulation, clipping, EMA and checkpointing"]
    return "; ".join(tried), {}


def resume(context: Context):
    """Resuming a run, and exporting a submission from its checkpoint."""
    _train(context, "resumed", "balanced_sigmoid", {})
    _train(context, "resumed", "balanced_sigmoid", {"SOLVER.MAX_ITER": ITERATIONS + 1}, "--resume")
    words = _overrides(context, "resumed", {"MODEL.WEIGHTS": _weights(context, "resumed")})
    _run(context, "export_submission.py", "balanced_sigmoid", "--dataset", "rendered_test_dev",
         "--output", context.folder / "submission", *words)  # fmt: skip
    return "resumed, and exported a submission", {}


def two_ranks(context: Context):
    """Two processes, one GPU each, as ``--num-gpus 2`` starts them."""
    _require_two_gpus(context)
    _train(context, "two_ranks", "balanced_sigmoid", {"MODEL.EMA.ENABLED": True}, "--num-gpus", "2")
    return "two processes trained and evaluated together", {}


def slurm(context: Context):
    """Two processes as SLURM starts them if each task sees only its own GPU."""
    _require_two_gpus(context)
    port = _free_port()
    command = _command(context, "train_net.py", "balanced_sigmoid", *_overrides(context, "slurm", {}))
    # Files, not pipes: a full pipe would block a task that the other one waits for.
    shown = [context.folder / f"slurm_task_{rank}.txt" for rank in range(2)]
    tasks = []
    for rank, path in enumerate(shown):
        with open(path, "w") as file:
            environment = _slurm_environment(rank, port)
            tasks.append(subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT))
    for task, path in zip(tasks, shown):
        _require_success(task.wait(), path.read_text(errors="replace"))
    _require_results(context, "slurm")
    return "two tasks, each with one visible GPU, trained and evaluated together", {}


def _with_first_stages(keys: list[str]) -> list[str]:
    return sorted(choose_methods(keys, METHODS), key=lambda key: GROUPS.index(METHODS[key].group))


def _require_two_gpus(context: Context) -> None:
    if context.device == "cuda" and torch.cuda.device_count() < 2:
        raise CheckSkippedError("this machine has one GPU, and the check needs two")


def _slurm_environment(rank: int, port: int) -> dict[str, str]:
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
    return {
        **_environment(), "CUDA_VISIBLE_DEVICES": shown[rank % len(shown)], "MASTER_PORT": str(port),
        "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(port),
    }  # fmt: skip


def _environment() -> dict[str, str]:
    """Environment without the variables of a launcher, for a job that ends with this process."""
    launchers = re.compile(r"SLURM_|PMI|RANK$|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|MASTER_|TORCHELASTIC")
    return child_environment({name: value for name, value in os.environ.items() if not launchers.match(name)})


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _train(context: Context, folder: str, config: str, overrides: dict, *arguments: str) -> None:
    """A short run in a separate process, as a failing kernel ends the process."""
    _run(context, "train_net.py", config, *arguments, *_overrides(context, folder, overrides))
    _require_results(context, folder)


def _evaluate(context: Context, folder: str, config: str, overrides: dict) -> None:
    _run(context, "train_net.py", config, "--eval-only", *_overrides(context, folder, overrides))
    _require_both_tasks(context.folder / folder / "evaluation" / "results.json")


def _run(context: Context, tool: str, config: str, *words) -> None:
    done = subprocess.run(_command(context, tool, config, *words), env=_environment(), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False)  # fmt: skip
    _require_success(done.returncode, done.stdout)


def _command(context: Context, tool: str, config: str, *words) -> list[str]:
    tools, configs = context.root / "tools", context.root / "configs" / "rendered"
    return [sys.executable, str(tools / tool), "--config-file", str(configs / f"{config}.yaml"), *map(str, words)]


def _overrides(context: Context, folder: str, overrides: dict) -> list[str]:
    values = {
        **SMALL_RENDERED,
        "DATALOADER.NUM_WORKERS": 1,
        "DATASETS.RENDERED.ROOT": context.folder / "rendered",
        "MODEL.DEVICE": context.device,
        "SOLVER.MAX_ITER": ITERATIONS,
        "OUTPUT_DIR": context.folder / folder,
        **overrides,
    }
    return override_words(values)


def _weights(context: Context, folder: str) -> Path:
    return context.folder / folder / "model_final.pth"


def _require_success(status: int, output: str) -> None:
    if status:
        raise CheckFailedError(f"{output[-4000:]}\nstatus {status}: {_last_error(output)}")


def _last_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if re.match(r"(\w+\.)*\w*(Error|Exception|error)\b", line)]
    return (lines or output.strip().splitlines() or ["no output"])[-1]


def _require_results(context: Context, folder: str) -> None:
    """Check that boxes and masks were evaluated and that losses are finite."""
    path = context.folder / folder
    _require_both_tasks(path / "results.json")
    lines = [json.loads(line) for line in (path / "metrics.json").read_text().splitlines()]
    losses = [line["total_loss"] for line in lines if "total_loss" in line]
    if not losses or not all(map(math.isfinite, losses)):
        raise CheckFailedError(f"{folder}: losses are {losses}")


def _require_both_tasks(path: Path) -> None:
    results = json.loads(path.read_text())
    if not {"bbox", "segm"} <= set(results):
        raise CheckFailedError(f"{path} has {', '.join(results)}, not bbox and segm")
