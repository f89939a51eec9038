"""Training and evaluation by a config."""

from __future__ import annotations

import logging
import os

import numpy as np

from ..calibration import LogitStatistics
from ..calibration.base import check_saved_files, path_next_to
from ..calibration.logit_statistics import STATISTICS_SUFFIX
from ..utils.errors import DivergedError, InputError
from ..utils.io import write_json, write_text
from ..utils.job_lock import only_job_in
from ..utils.keyword_options import chosen_options
from ..utils.once import once
from ..utils.run_files import CONFIG, EVALUATION, FINAL_WEIGHTS, LAST_CHECKPOINT, METRICS, RESULTS, SAVED_PRIOR
from ..utils.storage import check_output, check_writable, clear_errors, clear_output_errors
from .checkpoints import CURRENT, check_fits_evaluation, check_same_data, load_model, read_checkpoint
from .config import check_config, check_schedule, device_of
from .data import Dataset, build_dataset, long_tailed_subset
from .data.image_set import ImageSet
from .data.in_memory import in_memory
from .evaluation import GROUPS, is_balanced, predict, results_of, statistics_of
from .model import build_model
from .training import Trainer

_LOWER = "train again with a lower SOLVER.BASE_LR ({})."

logger = logging.getLogger(__name__)


def train(cfg, resume: bool = False) -> dict:
    """
    Train a model and evaluate it on the test set.

    Args:
        cfg: config, from :func:`balanced_lvis.classification.load_config`. ``OUTPUT_DIR`` gets ``config.yaml``,
            ``class_prior.json``, ``metrics.json``, ``model_final.pth`` and ``results.json``.
        resume: continue from the newest checkpoint in ``OUTPUT_DIR``, if there is one.

    Returns:
        the content of ``results.json``, see :func:`balanced_lvis.classification.evaluation.results_of`.

    Raises:
        InputError: if the config or the data is invalid, or another job uses ``OUTPUT_DIR``.
        StorageError: if ``OUTPUT_DIR`` can't be written to.
        DivergedError: if the loss, or a score of the trained model, is not finite.
    """
    check_config(cfg)
    check_schedule(cfg)
    device = device_of(cfg)
    with only_job_in(cfg.OUTPUT_DIR):
        check_writable(cfg.OUTPUT_DIR)
        dataset = dataset_from_config(cfg)
        images, test = in_memory(training_set(cfg, dataset), test_set(dataset))
        trainer = Trainer(cfg, images, device)
        if not (resume and trainer.resume()):
            _write_inputs(cfg, images)
        _report(images)
        trainer.train()
        scores = predict(trainer.model, test, cfg.TEST.IMS_PER_BATCH, device)
        if not np.isfinite(scores).all():
            raise DivergedError(f"The scores of the trained model are not finite; {_LOWER.format(cfg.SOLVER.BASE_LR)}")
        return _write_results(cfg.OUTPUT_DIR, results_of(scores, test.labels, images.counts()))


def evaluate(cfg) -> dict:
    """
    Evaluate the checkpoint in ``MODEL.WEIGHTS``, calibrated if ``MODEL.CALIBRATION`` names a calibration.

    Args:
        cfg: config. ``OUTPUT_DIR/evaluation`` gets ``config.yaml`` and ``results.json``.

    Returns:
        as :func:`train`.

    Raises:
        InputError: if the config, the data or the checkpoint is invalid, if the checkpoint was trained on other data or
            with an activation of another family, or if another job uses the folder.
        StorageError: if the folder can't be written to.
    """
    check_config(cfg)
    device, folder = device_of(cfg), os.path.join(cfg.OUTPUT_DIR, EVALUATION)
    if not cfg.MODEL.WEIGHTS:
        raise InputError("MODEL.WEIGHTS is empty; set it to the checkpoint to evaluate, such as model_final.pth.")
    with only_job_in(folder):
        check_writable(folder)
        dataset = dataset_from_config(cfg)
        images, test = training_set(cfg, dataset), test_set(dataset)
        model = build_model(cfg, images.num_classes, images.prior)
        content = read_checkpoint(cfg.MODEL.WEIGHTS)
        check_fits_evaluation(content["config"], cfg, cfg.MODEL.WEIGHTS)
        check_same_data(content, images, cfg.MODEL.WEIGHTS)
        load_model(model, content, cfg.MODEL.WEIGHTS)
        if model.calibration is not None:
            model.calibration.prepare(model.activation)
            model.calibration.check_classes(images.class_names, "the training set")
            check_saved_files(model.calibration, cfg.MODEL.WEIGHTS)
        (test,) = in_memory(test)
        scores = predict(model.to(device), test, cfg.TEST.IMS_PER_BATCH, device)
        if not np.isfinite(scores).all():
            raise InputError(
                f"The scores of {cfg.MODEL.WEIGHTS!r} are not finite: it is damaged, or its training diverged. Use "
                f"another checkpoint, or {_LOWER.format(cfg.SOLVER.BASE_LR)}"
            )
        with clear_errors(folder):
            write_text(os.path.join(folder, CONFIG), cfg.dump())
        return _write_results(folder, results_of(scores, test.labels, images.counts()))


def collect_logits(cfg) -> LogitStatistics:
    """
    The mean and standard deviation of the logit of each class over the training images, for the calibration LogN.

    Args:
        cfg: config of the checkpoint in ``MODEL.WEIGHTS``. Its calibration is ignored, and images are not augmented.

    Returns:
        the statistics, which are also written next to the checkpoint.

    Raises:
        InputError: as :func:`evaluate`.
        StorageError: if the file can't be written.
    """
    check_config(cfg)
    if not cfg.MODEL.WEIGHTS:
        raise InputError("MODEL.WEIGHTS is empty; set it to the checkpoint of which the logits are collected.")
    device, cfg = device_of(cfg), cfg.clone()
    cfg.defrost()
    cfg.MODEL.CALIBRATION.NAME, cfg.MODEL.WEIGHTS = "", os.path.expanduser(cfg.MODEL.WEIGHTS)
    content = read_checkpoint(cfg.MODEL.WEIGHTS)
    path = path_next_to(cfg.MODEL.WEIGHTS, STATISTICS_SUFFIX)
    check_output(path)
    images = training_set(cfg, dataset_from_config(cfg))
    model = build_model(cfg, images.num_classes, images.prior)
    check_fits_evaluation(content["config"], cfg, cfg.MODEL.WEIGHTS)
    check_same_data(content, images, cfg.MODEL.WEIGHTS)
    load_model(model, content, cfg.MODEL.WEIGHTS)
    (images,) = in_memory(images)
    statistics = statistics_of(model.to(device), images, cfg.TEST.IMS_PER_BATCH, device, cfg.MODEL.WEIGHTS)
    with clear_output_errors(path):
        statistics.save(path)
    logger.info("Statistics of the logits saved in %s", path)
    return statistics


def dataset_from_config(cfg) -> Dataset:
    """
    The dataset that ``DATASET.NAME`` names.

    Raises:
        InputError: for an unknown name or an invalid option.
    """
    return build_dataset(cfg.DATASET.NAME, **chosen_options(cfg.DATASET, cfg.DATASET.NAME))


def training_set(cfg, dataset: Dataset) -> ImageSet:
    """
    The long-tailed training set of ``DATASET.LONG_TAIL``, or all training images.

    Raises:
        InputError: if the data is missing or damaged, or has too few images.
    """
    return training_subset(cfg, dataset.train())


def test_set(dataset: Dataset) -> ImageSet:
    """
    The test set; a warning is logged if its classes have different numbers of images.

    Raises:
        InputError: if the data is missing or damaged.
    """
    images = dataset.test()
    if not is_balanced(counts := images.counts()):
        _report_unbalanced(counts.min(), counts.max())
    return images


@once
def _report_unbalanced(smallest: int, largest: int) -> None:
    logger.warning(
        "The test set is unbalanced: its classes have %d to %d images. Compare methods by balanced_accuracy, in which "
        "each class has the same weight.", smallest, largest,
    )  # fmt: skip


def training_subset(cfg, images: ImageSet) -> ImageSet:
    """
    The long-tailed subset of ``DATASET.LONG_TAIL``, or all images.

    Raises:
        InputError: if a class has too few images.
    """
    options = cfg.DATASET.LONG_TAIL
    if not options.IMBALANCE:
        return images
    return long_tailed_subset(images, options.IMBALANCE, options.MAX_COUNT, options.SEED)


def _write_inputs(cfg, images: ImageSet) -> None:
    """Describe a new run, and delete the checkpoints, metrics and results of an earlier one."""
    folder = cfg.OUTPUT_DIR
    with clear_errors(folder):
        for name in (LAST_CHECKPOINT, CURRENT, FINAL_WEIGHTS, METRICS, RESULTS, os.path.join(EVALUATION, RESULTS)):
            path = os.path.join(folder, name)
            # A run that starts from the model in its own folder needs it again when it is resumed.
            if os.path.exists(path) and os.path.realpath(path) != os.path.realpath(cfg.MODEL.WEIGHTS or "."):
                os.unlink(path)
        write_text(os.path.join(folder, CONFIG), cfg.dump())
        images.prior().save(os.path.join(folder, SAVED_PRIOR))


def _report(images: ImageSet) -> None:
    counts = images.counts()
    logger.info(
        "%d training images of %d classes, %d to %d per class",
        len(images), images.num_classes, counts.max(), counts.min(),
    )  # fmt: skip


def _write_results(folder: str, results: dict) -> dict:
    with clear_errors(folder):
        write_json(os.path.join(folder, RESULTS), results, indent=1)
    groups = ", ".join(f"{group} {results[group]:.1f}" for group in GROUPS if results[group] is not None)
    if not is_balanced(results["test_counts"]):
        groups = f"balanced {results['balanced_accuracy']:.2f}, {groups}"
    logger.info("Accuracy %.2f %% (%s), written to %s", results["accuracy"], groups, os.path.join(folder, RESULTS))
    return results
