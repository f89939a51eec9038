"""Attempts of a training run, each in a forked process that can be killed."""

from __future__ import annotations

import json
import os
import sys
import traceback
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

import torch

from balanced_lvis.config import load_config
from balanced_lvis.console.command_line import command_line
from balanced_lvis.console.signals import held
from balanced_lvis.engine import run as engine_run
from balanced_lvis.engine.step import TrainingStep
from balanced_lvis.experiments.small_rendered import SMALL_RENDERED, override_words
from balanced_lvis.utils.job_lock import only_job_in
from balanced_lvis.utils.parent_process import end_with_parent
from balanced_lvis.utils.run_files import METRICS

from .failing_writes import FailingWrites
from .faults import Fault

ITERATIONS = 24
PERIOD = 4
LOSSES = "losses.txt"
SCREEN = "screen.txt"

# A Mask R-CNN on rendered data, with iterations of about ten milliseconds.
_TINY = {
    **SMALL_RENDERED,
    "DATASETS.TEST": (),
    "INPUT.MIN_SIZE_TRAIN": (64, 96),
    "MODEL.DEVICE": "cpu",
    "SOLVER.MAX_ITER": ITERATIONS,
    "SOLVER.WARMUP_ITERS": 5,
    "SOLVER.CHECKPOINT_PERIOD": PERIOD,
    "SEED": 1,
}


@dataclass
class Setting:
    """
    A type of training run.

    Attributes:
        config: path of the config below ``configs``.
        options: config overrides.
        after: name of the setting whose final weights it starts from.
    """

    config: str = "quick_start/balanced_sigmoid.yaml"
    options: dict = field(default_factory=dict)
    after: str | None = None


SETTINGS = {
    "plain": Setting(),
    "workers, grouped by shape, repeat factors": Setting(
        options={
            "DATALOADER.NUM_WORKERS": 2,
            "DATALOADER.ASPECT_RATIO_GROUPING": True,
            "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
            "DATALOADER.REPEAT_THRESHOLD": 0.5,
        }
    ),
    "SGD, accumulated, class-aware": Setting(
        options={
            "SOLVER.OPTIMIZER": "SGD",
            "SOLVER.ACCUMULATE_BATCHES": 2,
            "DATALOADER.SAMPLER_TRAIN": "ClassAwareTrainingSampler",
        }
    ),
    "evaluation during training": Setting(options={"DATASETS.TEST": ("rendered_val",), "TEST.EVAL_PERIOD": 6}),
    "averaged weights, clipped gradients": Setting(
        options={
            "MODEL.EMA.ENABLED": True,
            "SOLVER.CLIP_GRADIENTS.ENABLED": True,
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
        }
    ),
    "meta re-weighting": Setting(config="rendered/balms.yaml", after="plain"),
}


class Attempts:
    """
    Attempts of the training run of one setting, one process at a time.

    Args:
        configs: folder of the configs.
        root: folder of the rendered dataset.
        output: ``OUTPUT_DIR`` of the run.
        setting: the setting.
        weights: ``MODEL.WEIGHTS``; empty to train from scratch.
    """

    def __init__(self, configs: Path, root: Path, output: Path, setting: Setting, weights: str = ""):
        pairs = {**_TINY, **setting.options, "DATASETS.RENDERED.ROOT": str(root), "OUTPUT_DIR": str(output)}
        opts = override_words({**pairs, "MODEL.WEIGHTS": weights})
        self.args = Namespace(config_file=str(configs / setting.config), opts=opts, eval_only=False, resume=True)
        self.cfg = load_config(self.args.config_file, opts)
        self.cfg.freeze()
        self.output = output

    def start(self, fault: Fault | FailingWrites | None = None) -> int:
        """
        Fork a process that continues the training run.

        Args:
            fault: fault to activate in the process.

        Returns:
            process id. The process exits like ``tools/train_net.py``; its output is in ``OUTPUT_DIR/screen.txt``.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        with held():
            process = os.fork()
            if not process:
                self._run(parent, fault)
        return process

    def _run(self, parent: int, fault: Fault | FailingWrites | None) -> None:
        """Run the forked process, which starts with blocked signals."""
        status = 1
        try:
            os.setpgid(0, 0)  # with its data workers
            end_with_parent(parent)
            self._redirect()
            if fault:
                fault.arm()
            status = self._work()
        except SystemExit as error:
            status = int(error.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # without the exit handlers of the parent process

    def _redirect(self) -> None:
        screen = os.open(self.output / SCREEN, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(screen, stream)

    def _work(self) -> int:
        engine_run.collect_env_info = lambda: ""  # saves half a second
        write = TrainingStep._write_numbers
        losses = os.open(self.output / LOSSES, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def write_too(trainer, names, numbers):
            own = ",".join(float(number).hex() for number in numbers[0, 1:])
            os.write(losses, f"{trainer.iter} {own}\n".encode())
            write(trainer, names, numbers)

        TrainingStep._write_numbers = write_too  # type: ignore[method-assign]  # in this process only

        def run_alone():
            with only_job_in(self.output):
                engine_run.run(self.cfg, self.args)

        return command_line(run_alone)()

    def losses(self) -> list[tuple[int, str]]:
        """Iterations and their exact losses, of all attempts in order."""
        try:
            lines = (self.output / LOSSES).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(int(iteration), numbers) for iteration, numbers in map(str.split, lines)]

    def metrics(self) -> list[tuple[int, bool, dict[str, str]]]:
        """For each line of ``metrics.json``: the iteration, whether it has losses, and the metrics of an evaluation."""
        lines = map(json.loads, (self.output / METRICS).read_text(encoding="utf-8").splitlines())
        return [
            (
                line["iteration"],
                "total_loss" in line,
                {name: repr(line[name]) for name in sorted(line) if "/AP" in name},
            )
            for line in lines
        ]

    def shown(self) -> str:
        """Output of all attempts, in order."""
        path = self.output / SCREEN
        return path.read_text(errors="replace") if path.exists() else ""

    def final_state(self) -> dict:
        """The content of the final checkpoint, without the name of the run."""
        state = torch.load(self.output / "model_final.pth", map_location="cpu", weights_only=True)
        del state["trainer"]["run"]
        return state


def same(one, other) -> bool:
    """Whether two states are bit-identical."""
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return one == other
