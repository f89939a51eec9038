"""The runs of a comparison, and methods that a user's own configs define."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..config import load_config
from ..modeling.decoupled import is_second_stage
from ..utils.errors import InputError
from ..utils.run_files import FINAL_WEIGHTS
from .methods import Method
from .runs import EvaluationRun, PreparationRun, Run

CONFIG_SUFFIX = ".yaml"

RunKey = tuple[str, int]  # method, seed


def comparison_runs(
    methods: Mapping[str, Method],
    files: Mapping[str, Path],
    seeds: Sequence[int],
    output: Path,
    overrides: Sequence[str],
) -> dict[RunKey, Run]:
    """
    The runs of all methods, seed by seed, so that all methods have a result early; each after its first stage.

    Args:
        methods: {key: method}, first stages included.
        files: {key: config of the method}.
        seeds: training seeds.
        output: folder of the comparison; each run has a folder such as ``output``/crt/seed_0.
        overrides: ``KEY VALUE`` pairs, for all runs.

    Returns:
        {(key, seed): run}.
    """
    runs: dict[RunKey, Run] = {}
    configs = {key: load_config(files[key], overrides) for key, method in methods.items() if method.evaluates_only}
    for seed in seeds:
        for method in sorted(methods.values(), key=lambda method: _depth(method, methods)):
            after: Run | None = runs[method.first_stage, seed] if method.first_stage else None
            if after and method.evaluates_only:
                after = PreparationRun.of(after, configs[method.key])
            runs[method.key, seed] = new_run(
                f"{method.key}/seed_{seed}", seed, files[method.key], output, overrides, after, method.evaluates_only
            )
    return runs


def _depth(method: Method, methods: Mapping[str, Method]) -> int:
    """Number of methods whose models this one builds on."""
    return 1 + _depth(methods[method.first_stage], methods) if method.first_stage else 0


def new_run(
    name: str,
    seed: int,
    config_file: Path,
    output: Path,
    overrides: Sequence[str],
    after: Run | None,
    evaluates_only: bool = False,
) -> Run:
    """
    A run in the folder ``output``/``name``.

    Args:
        name: METHOD/seed_0 or similar, unique in ``output``.
        seed: training seed.
        config_file: its config.
        output: folder of the experiment.
        overrides: ``KEY VALUE`` pairs.
        after: the run whose final model it starts from.
        evaluates_only: whether that model is evaluated without training.
    """
    # Last, as it takes precedence: an override of MODEL.WEIGHTS is for first stages.
    own = ("SEED", str(seed), *(("MODEL.WEIGHTS", str(after.weights)) if after else ()))
    kind = EvaluationRun if evaluates_only else Run
    title = name.replace("/seed_", " seed ")
    return kind(name, title, config_file, output / name, (*overrides, *own), after)


def is_config_file(word: str) -> bool:
    """Whether a value of ``--methods`` is a config file and not a key of the table of methods."""
    return word.endswith(CONFIG_SUFFIX)


def method_of_config(path: str, known: Mapping[str, Method], overrides: Sequence[str] = ()) -> Method:
    """
    The method that a user's own config defines, named after its file.

    If its ``MODEL.WEIGHTS`` is the final model in the folder of a known method, such as
    ``output/rendered/rfs/model_final.pth``, it starts from the model of that method with the same seed: as a second
    stage if the config trains one, else it is evaluated without training.

    Args:
        path: the config.
        known: {key: method}, the methods that it can't have the name of.
        overrides: ``KEY VALUE`` pairs, such as ``IMPORTS``.

    Raises:
        InputError: if the config is missing or invalid, if its name is taken or unsuitable for a folder, or if it needs
            a trained model and ``MODEL.WEIGHTS`` is not the final model of a known method.
    """
    key = Path(path).name.removesuffix(CONFIG_SUFFIX)
    if key in known:
        raise InputError(f"--methods: {path} has the name of another method, {key!r}; rename the file.")
    if not re.fullmatch(r"\w[\w.-]*", key):
        raise InputError(f"--methods: {path}: the file's name is the name of a folder; use letters, digits and _ only.")
    # An override of MODEL.WEIGHTS is for first stages.
    pairs = [pair for pair in zip(overrides[::2], overrides[1::2]) if pair[0] != "MODEL.WEIGHTS"]
    cfg = load_config(path, [word for pair in pairs for word in pair])
    first_stage = _first_stage(cfg.MODEL.WEIGHTS, known)
    if first_stage is None and (what := _needs_a_model(cfg)):
        raise InputError(
            f"--methods: {path} {what}, but its MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r} is not the final model of a known "
            f"method, such as output/rendered/rfs/{FINAL_WEIGHTS}; set it to the one to start from."
        )
    return Method(key, key, None, first_stage, evaluates_only=first_stage is not None and not is_second_stage(cfg))


def _needs_a_model(cfg) -> str:
    """Why a config can't be trained end to end, for the message; empty if it can."""
    if is_second_stage(cfg):
        return "is a second stage"
    # Training may also start from pretrained weights, and be evaluated with a calibration.
    calibration = cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME
    return f"calibrates a checkpoint with {calibration!r}" if calibration and _is_checkpoint(cfg.MODEL.WEIGHTS) else ""


def _is_checkpoint(weights: str) -> bool:
    return "://" not in weights and Path(weights).suffix == Path(FINAL_WEIGHTS).suffix


def _first_stage(weights: str, known: Mapping[str, Method]) -> str | None:
    """The known method in whose folder the weights are; also METHOD/seed_0 and r50_METHOD."""
    path = Path(weights)
    if path.name != FINAL_WEIGHTS:
        return None
    folders = (
        [path.parent.name, path.parent.parent.name] if path.parent.name.startswith("seed_") else [path.parent.name]
    )
    names = [re.sub(r"^r(50|101)_", "", folder) for folder in folders]
    return next((name for name in names if name in known), None)
