"""The Python API: functions for training, evaluation and prediction."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from .commands.jobs import check_and_launch
from .config import load_config, thawed
from .engine.processes.job import find_job
from .engine.run import read_config, run_in_worker
from .prediction.predictor import Predictor
from .utils.errors import InputError
from .utils.run_files import RESULTS
from .utils.user_paths import path_of

__all__ = ["Predictor", "evaluate", "load_config", "train"]


def train(cfg, *, resume: bool = False, num_gpus: int = 1) -> dict:
    """
    Trains a model and evaluates it, as ``balanced-lvis train``; results and checkpoints are written to ``OUTPUT_DIR``.

    torchrun and SLURM are recognised. With ``num_gpus`` above 1, the calling script needs ``if __name__ ==
    "__main__":``, because each process imports it again.

    Args:
        cfg: from :func:`load_config`; it is not changed.
        resume: continue from the newest complete checkpoint in ``OUTPUT_DIR``, if there is one.
        num_gpus: number of processes on this machine, one per GPU if there are GPUs.

    Returns:
        the results of the last evaluation, {"bbox": {"AP": ...}, "segm": {...}} in percent, as in ``results.json``;
        empty without ``DATASETS.TEST``, and in other processes than the first.

    Raises:
        InputError: if the config, a dataset or the weights are invalid.
        DivergedError: if losses or gradients were not finite in too many updates in a row.
        StorageError: if ``OUTPUT_DIR`` can't be written.
    """
    return _run(cfg, eval_only=False, resume=resume, num_gpus=num_gpus)


def evaluate(cfg, weights: str | os.PathLike, *, num_gpus: int = 1) -> dict:
    """
    Evaluates a checkpoint, as ``balanced-lvis evaluate``; results are written to ``OUTPUT_DIR/evaluation``.

    Args:
        cfg: from :func:`load_config`; it is not changed.
        weights: path of the checkpoint.
        num_gpus: as for :func:`train`.

    Returns:
        as :func:`train`.

    Raises:
        InputError, StorageError: as :func:`train`.
    """
    cfg = thawed(cfg)
    cfg.MODEL.WEIGHTS = path_of(weights, "weights")
    return _run(cfg, eval_only=True, resume=False, num_gpus=num_gpus)


def _run(cfg, *, eval_only: bool, resume: bool, num_gpus: int) -> dict:
    if isinstance(num_gpus, bool) or not isinstance(num_gpus, int):
        raise InputError(f"num_gpus is {num_gpus!r:.80}; it must be an int, such as 1.")
    args = argparse.Namespace(
        cfg=thawed(cfg), eval_only=eval_only, resume=resume, allow_missing=False, num_gpus=num_gpus, num_machines=1,
        machine_rank=0, dist_url="auto",
    )  # fmt: skip
    job = find_job(args)
    args.resume |= job.attempt > 0  # restarted by torchrun after a failure
    cfg = read_config(args, job)
    check_and_launch(job, cfg, args, run_in_worker, (cfg, args))
    if job.rank or not cfg.DATASETS.TEST:
        return {}
    return json.loads(Path(cfg.OUTPUT_DIR, RESULTS).read_text(encoding="utf-8"))
