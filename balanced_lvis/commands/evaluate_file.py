"""Evaluation of a results file from any program."""

from __future__ import annotations

import logging
import os
import shutil

from ..console.command_line import log_to_files
from ..data.config_datasets import prepare_datasets
from ..data.registered_files import evaluation_file_of
from ..evaluation.lvis_evaluator import LVISEvaluator
from ..evaluation.submission import ImageList, annotation_file_of, read_predictions
from ..utils.errors import InputError
from ..utils.io import write_json
from ..utils.run_files import INFERENCE, RESULTS
from ..utils.storage import check_writable

logger = logging.getLogger(__name__)


def check_evaluates_file(eval_only: bool, world_size: int) -> None:
    """
    Raises:
        InputError: without ``--eval-only``, or with several processes.
    """
    if not eval_only:
        raise InputError("--predictions evaluates a file without training; add --eval-only.")
    if world_size > 1:
        raise InputError(f"--predictions runs in one process, not {world_size}; remove --num-gpus.")


def evaluate_file(cfg, path: str) -> dict[str, dict[str, float]]:
    """
    Evaluate a results file on ``DATASETS.TEST``.

    Args:
        cfg: the config, of which DATASETS.TEST, TEST.LVIS_BACKEND and OUTPUT_DIR are used. ``results.json`` and
            ``inference/per_category_ap.json`` are written to OUTPUT_DIR, as after the evaluation of a model.
        path: JSON in LVIS results format, or a zip archive that contains it.

    Returns:
        {"bbox": {metric: percent}, "segm": {...}}, depending on what the file has.

    Raises:
        InputError: if the config or the file can't be evaluated.
    """
    if len(cfg.DATASETS.TEST) != 1:
        raise InputError(
            f"DATASETS.TEST is {tuple(cfg.DATASETS.TEST)}, but --predictions evaluates a file on one dataset; add, "
            "for example, DATASETS.TEST \"('lvis_v1_val',)\"."
        )
    (name,) = cfg.DATASETS.TEST
    check_writable(cfg.OUTPUT_DIR)
    log_to_files(cfg.OUTPUT_DIR, 0)
    prepare_datasets(cfg)
    json_file = annotation_file_of(name, "DATASETS.TEST")
    evaluation_file_of(name)
    folder = os.path.join(cfg.OUTPUT_DIR, INFERENCE)
    evaluator = LVISEvaluator(name, folder, distributed=False, backend=cfg.TEST.LVIS_BACKEND)
    store = os.path.join(folder, ".predictions")
    try:
        detections, tasks, report = read_predictions(path, ImageList(json_file), store)
        logger.info("%s", str(report).splitlines()[0])
        results = evaluator.evaluate_stored(detections, tasks)
    finally:
        shutil.rmtree(store, ignore_errors=True)
    output = os.path.join(cfg.OUTPUT_DIR, RESULTS)
    write_json(output, results, indent=1)
    logger.info("Results written to %s", output)
    return results
