"""Settings of calibrations, evaluated on one checkpoint in one pass of inference, and the choice of the best."""

from __future__ import annotations

import ast
import functools
import itertools
import logging
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.evaluation import inference_context, inference_on_dataset
from detectron2.utils import comm

from ..calibration import Calibration, calibration_class, calibration_names
from ..config import thawed
from ..data.config_datasets import prepare_datasets
from ..data.dataset_files import check_datasets
from ..data.dataset_records import file_names, load_records
from ..engine.checkpoints.identity import Identity
from ..engine.checkpoints.weights import load_for_evaluation
from ..engine.processes.watchdog import note
from ..engine.trainer import Trainer
from ..evaluation.grid_evaluator import GridEvaluator
from ..evaluation.lvis_api import IOU_TYPES, METRICS
from ..modeling.box_predictor import (
    activation_from_config,
    calibration_from_config,
    check_calibration,
    prior_source,
)
from ..modeling.grid_detector import GridDetector
from ..utils.errors import InputError, did_you_mean
from ..utils.keyword_options import chosen_options, keyword_options
from ..utils.text import one_line
from .tables import TASKS

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, float]]  # {"bbox": {metric: percent}, "segm": {...}}


@dataclass(frozen=True)
class Setting:
    """
    A calibration with the values of its options.

    Attributes:
        calibration: registered name; empty for the scores of the activation.
        options: (name, value) of each option, in the order of the constructor.
        varied: names of the options that the grid varies.
    """

    calibration: str = ""
    options: tuple[tuple[str, object], ...] = ()
    varied: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name in tables: the calibration and the values of the options that vary."""
        values = dict(self.options)
        return ", ".join([self.calibration or "none", *(f"{name} {_shown(values[name])}" for name in self.varied)])


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Grid:
    """
    A calibration and the values to try.

    Attributes:
        calibration: registered name.
        values: {option: its values, as words of a command line}; empty for the default grid of the calibration.
    """

    calibration: str
    values: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Plan:
    """
    What is evaluated, and how the best setting is chosen.

    Attributes:
        dataset: name of the registered dataset.
        settings: the first one is without calibration.
        select: metric of the choice: ``METRIC``, of masks if there are any, or ``TASK/METRIC``.
        holdout: share of the images on which settings are not chosen but reported; 0 for none.
        seed: of the split.
        output: folder for detections during the evaluation.
    """

    dataset: str
    settings: tuple[Setting, ...]
    select: str = "AP"
    holdout: float = 0.0
    seed: int = 0
    output: str = ""

    def check(self) -> None:
        """
        Raises:
            InputError: for an unknown metric, or a share of the images that leaves a part empty.
        """
        task, _, metric = self.select.rpartition("/")
        if metric not in METRICS or task not in ("", *IOU_TYPES):
            raise InputError(
                f"--select is {self.select!r}; valid: {', '.join(METRICS)}, also of one task, such as bbox/APr."
            )
        if not 0 <= self.holdout < 1:
            raise InputError(f"--holdout is {self.holdout:g}; it must be a share of the images from 0 to below 1.")
        if self.seed < 0:
            raise InputError(f"--seed is {self.seed}; it must be 0 or more.")


def settings_of(cfg, grids: Sequence[Grid]) -> tuple[Setting, ...]:
    """
    The distinct settings of some grids; the first is without calibration.

    Args:
        cfg: options that a grid does not vary have their values in this config.
        grids: as the user gave them, or from :func:`default_grids`.

    Raises:
        InputError: for an unknown calibration, option or type of value.
    """
    distinct: dict[tuple[str, str], Setting] = {}
    for setting in (Setting(), *itertools.chain.from_iterable(_settings(cfg, grid) for grid in grids)):
        distinct.setdefault((setting.calibration, repr(setting.options)), setting)
    return tuple(distinct.values())


def default_grids(cfg) -> tuple[list[Grid], list[str]]:
    """
    The default grids of all calibrations that can be used with the activation, the class prior and the checkpoint.

    Args:
        cfg: as for :func:`check_settings`.

    Returns:
        the grids; a warning for each calibration that can't be used.

    Raises:
        InputError: if no calibration can be used.
    """
    reasons = {name: reason for name in calibration_names() if (reason := _why_not(cfg, name))}
    if len(reasons) == len(calibration_names()):
        lines = "".join(f"\n  {name}: {reason}" for name, reason in reasons.items())
        raise InputError(f"No calibration can be used with this model:{lines}")
    grids = [Grid(name, {}) for name in calibration_names() if name not in reasons]
    return grids, [f"The calibration {name} was not tried: {reason}" for name, reason in reasons.items()]


def _why_not(cfg, name: str) -> str:
    """Why a calibration can't be used; empty if it can."""
    try:
        check_settings(cfg, settings_of(cfg, [Grid(name, {})]))
    except InputError as error:
        return one_line(str(error))
    return ""


def _of_config(cfg, name: str) -> Setting:
    return Setting(name, tuple(chosen_options(cfg.MODEL.ROI_BOX_HEAD.CALIBRATION, name).items()))


def _settings(cfg, grid: Grid) -> Iterable[Setting]:
    cls = calibration_class(grid.calibration)
    options = dict(_of_config(cfg, grid.calibration).options)
    values: Mapping[str, Sequence] = _parsed_values(grid, keyword_options(cls)) or cls.grid
    for combination in itertools.product(*values.values()):
        chosen = {**options, **dict(zip(values, combination))}
        yield Setting(grid.calibration, tuple(chosen.items()), tuple(values))


def _parsed_values(grid: Grid, defaults: Mapping[str, object]) -> dict[str, list]:
    parsed = {}
    for word, values in grid.values.items():
        option = word.lower()
        if option not in defaults:
            valid = ", ".join(name.upper() for name in defaults) or "none"
            hint = did_you_mean(word.upper(), [name.upper() for name in defaults])
            raise InputError(f"--grid {word}: {grid.calibration} has no such option.{hint} Valid: {valid}.")
        if not values:
            raise InputError(f"--grid {word} has no values; add some, such as --grid {word} {defaults[option]}.")
        parsed[option] = [_parsed(grid.calibration, word, value, defaults[option]) for value in values]
    return parsed


def _parsed(calibration: str, option: str, word: str, default: object) -> object:
    """The value of an option, of the type of its default."""
    if isinstance(default, str):
        return word
    try:
        value = ast.literal_eval(word)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = word
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if default is not None and type(value) is not type(default):
        raise InputError(
            f"--grid {option} of {calibration}: {word!r:.80} is not of type {type(default).__name__}, like {default!r}."
        )
    return value


def build_calibrations(cfg, settings: Sequence[Setting]) -> list[Calibration | None]:
    """
    The calibrations of some settings, as configs with them build them. They share the class prior, which is read once.

    Raises:
        InputError: for an invalid option, or a calibration that doesn't fit the activation.
    """
    calibrations, prior = [], functools.lru_cache(maxsize=None)(prior_source(cfg))
    for setting in settings:
        changed = thawed(cfg)
        node = changed.MODEL.ROI_BOX_HEAD.CALIBRATION
        node.NAME = setting.calibration
        for name, value in setting.options:
            node[setting.calibration.upper()][name.upper()] = value
        calibrations.append(calibration_from_config(changed, prior))
    return calibrations


def check_settings(cfg, settings: Sequence[Setting]) -> None:
    """
    Build and check all calibrations, as an evaluation with each of them does.

    Args:
        cfg: a config with registered datasets, in which ``MODEL.ROI_HEADS.NUM_CLASSES`` is known.

    Raises:
        InputError: for an invalid option, or as :func:`..modeling.box_predictor.check_calibration`.
    """
    activation = activation_from_config(cfg)
    for calibration in build_calibrations(cfg, settings):
        if calibration is not None:
            check_calibration(cfg, calibration, activation)


# ------------------------------------------------------------------ evaluation


def evaluate_settings(cfg, plan: Plan) -> dict | None:
    """
    Evaluate all settings of a plan on its dataset; called in every process of a job.

    Args:
        cfg: a checked config with ``MODEL.WEIGHTS``.

    Returns:
        for JSON, on rank 0: "settings", each with its "results" on the images of the choice; "select", the metric, as
        ``TASK/METRIC``; "best", the index of the best setting, None if the metric has no value; "images", their number;
        and "holdout", None or the "results" by index of the settings that are reported on the held-out "images".

    Raises:
        InputError: if the checkpoint doesn't fit, or the dataset can't be evaluated.
    """
    model = Trainer.build_model(cfg)
    load_for_evaluation(model, cfg.MODEL.WEIGHTS, Identity.from_config(cfg, evaluation=True), cfg.MODEL.TRUST_WEIGHTS)
    folder = os.path.join(plan.output, f".detections_rank{comm.get_rank()}")
    evaluator = GridEvaluator(plan.dataset, folder, len(plan.settings), cfg.TEST.LVIS_BACKEND)
    detector = GridDetector(model, build_calibrations(cfg, plan.settings), evaluator.judged_categories())
    if comm.is_main_process():  # what would be an error after inference
        _select_of(plan.select, evaluator.possible_tasks(cfg.MODEL.MASK_ON))
        split_images(evaluator.image_ids(), plan.holdout, plan.seed)
    try:
        with inference_context(model):
            inference_on_dataset(_noted(detector), Trainer.build_test_loader(cfg, plan.dataset), evaluator)
        if not comm.is_main_process():
            return None
        return _found(plan, evaluator)
    finally:
        evaluator.close()


def _noted(detector: Callable) -> Callable:
    """A detector that reports every batch to the watchdog."""

    def detect(inputs: list[dict]):
        note("evaluating", slow=True)
        return detector(inputs)

    return detect


def _found(plan: Plan, evaluator: GridEvaluator) -> dict:
    images = sorted(set(evaluator.detections.regions.images["id"].tolist()))
    chosen_on, held_out = split_images(images, plan.holdout, plan.seed)
    results = []
    for index, setting in enumerate(plan.settings):
        note(f"evaluating setting {index}", slow=True)
        results.append(evaluator.metrics(index, chosen_on if held_out else None))
        logger.info("%d of %d: %s: %s", index + 1, len(plan.settings), setting.label, _summary(results[-1]))
    select = _select_of(plan.select, results[0])
    best = best_of(results, select)
    settings = [_record(*pair) for pair in zip(plan.settings, results)]
    found = {"dataset": plan.dataset, "images": len(chosen_on), "select": select, "best": best, "settings": settings}
    if not held_out:
        return {**found, "holdout": None}
    reported = {}
    for index in _reported(plan.settings, results, select):
        note(f"evaluating setting {index} on held-out images", slow=True)
        reported[str(index)] = evaluator.metrics(index, held_out)
    split = {"share": plan.holdout, "seed": plan.seed, "images": len(held_out)}
    return {**found, "holdout": {**split, "results": reported}}


def _record(setting: Setting, results: Results) -> dict:
    return {
        "label": setting.label,
        "calibration": setting.calibration,
        "options": dict(setting.options),
        "varied": list(setting.varied),
        "results": results,
    }


def _summary(results: Results) -> str:
    return ", ".join(f"{TASKS[task]} AP {found['AP']:.2f}" for task, found in results.items())


def split_images(image_ids: Sequence[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """
    Split images at random into those on which settings are chosen, and those that are held out.

    Args:
        image_ids: distinct ids.
        share: of the held-out images; 0 for none.
        seed: of the split.

    Returns:
        two sorted lists, neither empty if ``share`` is above 0.

    Raises:
        InputError: if there are fewer than two images to split.
    """
    if not share:
        return sorted(image_ids), []
    if len(image_ids) < 2:
        raise InputError(f"--holdout needs 2 images or more; the dataset has {len(image_ids)}.")
    order = np.random.default_rng(seed).permutation(sorted(image_ids)).tolist()
    number = min(max(1, round(share * len(order))), len(order) - 1)
    return sorted(order[number:]), sorted(order[:number])


def _select_of(select: str, tasks: Collection[str]) -> str:
    """``TASK/METRIC``; without a task, masks if they are evaluated."""
    if "/" not in select:
        return f"{'segm' if 'segm' in tasks else 'bbox'}/{select}"
    task = select.partition("/")[0]
    if task not in tasks:
        raise InputError(f"--select is {select!r}, but only {', '.join(tasks)} is evaluated; choose a metric of it.")
    return select


def best_of(results: Sequence[Results], select: str) -> int | None:
    """Index of the results with the highest metric, the first of equal ones; None if no results have a value."""
    task, metric = select.split("/")
    values = [found[task][metric] for found in results]
    known = [index for index, value in enumerate(values) if not math.isnan(value)]
    return max(known, key=lambda index: (values[index], -index), default=None)


def _reported(settings: Sequence[Setting], results: Sequence[Results], select: str) -> list[int]:
    """The settings reported on held-out images: without calibration, and the best one of each calibration."""
    reported = [0]
    for name in dict.fromkeys(setting.calibration for setting in settings[1:]):
        own = [index for index, setting in enumerate(settings) if setting.calibration == name]
        best = best_of([results[index] for index in own], select)
        reported += [] if best is None else [own[best]]
    return reported


# ------------------------------------------------------------------ warnings


def warnings_of(cfg, dataset: str, reported_on: Sequence[str], holdout: float) -> list[str]:
    """
    Reasons why the AP of the best setting would be too high on other images.

    Args:
        cfg: the config, whose datasets are looked up.
        dataset: name of the dataset that settings are chosen on.
        reported_on: ``DATASETS.TEST`` of the config, on which results are reported.
        holdout: share of held-out images; with one, results are reported on images without any choice.
    """
    found = []
    if dataset in cfg.DATASETS.TRAIN:
        found.append(
            f"{one_line(dataset)} is in DATASETS.TRAIN: its scores are those of images that the model was trained on, "
            "and another setting may be the best on new images. Use --dataset with images that were not trained on."
        )
    if holdout:
        return found
    names = []
    for name in reported_on:
        try:
            names += [name] if name == dataset or _share_images(cfg, dataset, name) else []
        except InputError as error:
            found.append(
                f"{one_line(name)} in DATASETS.TEST can't be read, so it is not known whether it has images of "
                f"{one_line(dataset)}, for which results on it would be optimistic: {one_line(str(error))}"
            )
    if names:
        same = "is" if dataset in names else f"has images of {', '.join(map(one_line, names))}, which is"
        found.append(
            f"{one_line(dataset)} {same} in DATASETS.TEST, on which results are reported. The best setting is chosen "
            "for these images, so its AP here is optimistic. To report results, choose and report on different images: "
            "use --holdout 0.5, or --dataset with another validation set."
        )
    return found


def _share_images(cfg, dataset: str, other: str) -> bool:
    return not set(_images_of(cfg, dataset)).isdisjoint(_images_of(cfg, other))


def _images_of(cfg, name: str) -> list[str]:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = (name,)
    prepare_datasets(cfg)
    check_datasets((name,))
    return [os.path.realpath(path) for path in file_names(load_records(name, filter_empty=False))]
