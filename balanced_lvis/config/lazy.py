"""
LazyConfigs as configs: the settings that the engine reads, under the keys of yaml configs.

A LazyConfig declares a model, an optimizer, a schedule, data loaders and ``train``. The engine builds these parts from
the file (:mod:`balanced_lvis.engine.lazy_model`, ``SOLVER.OPTIMIZER`` "LazyConfig", ...), and reads everything else
from a config: datasets, class prior, sampler, checkpoints, evaluation. :func:`config_of_lazy` makes this config. Its
``LAZY`` node names the file and the overrides, so that it can be saved, changed and sent to processes as any other.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode as CN
from detectron2.data import build_detection_test_loader, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..activations import activation_class, activation_names
from ..calibration import calibration_class, calibration_names
from ..config_files.keys import get
from ..config_files.names import ENGINE, NODES
from ..data.samplers import ClassAwareTrainingSampler, InstanceAwareRepeatFactorTrainingSampler
from ..lazy_config.files import load_lazy, target_of
from ..utils.errors import InputError, did_you_mean
from ..utils.io import write_text
from ..utils.keyword_options import keyword_options

logger = logging.getLogger(__name__)

LAZY = "LazyConfig"  # SOLVER.OPTIMIZER and SOLVER.LR_SCHEDULER_NAME of parts that the LazyConfig declares
MODEL = "build_lazy_model"  # MODEL.META_ARCHITECTURE

# {config key: key of the LazyConfig}. Where the LazyConfig has no such key, the default of the config key is used.
_TRAIN = {
    "OUTPUT_DIR": "train.output_dir",
    "MODEL.WEIGHTS": "train.init_checkpoint",
    "MODEL.DEVICE": "train.device",
    "SOLVER.MAX_ITER": "train.max_iter",
    "SOLVER.AMP.ENABLED": "train.amp.enabled",
    "SOLVER.CHECKPOINT_PERIOD": "train.checkpointer.period",
    "TEST.EVAL_PERIOD": "train.eval_period",
    "SEED": "train.seed",
    "CUDNN_BENCHMARK": "train.cudnn_benchmark",
}
_DATA = {
    "DATASETS.TRAIN": "dataloader.train.dataset.names",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": "dataloader.train.dataset.filter_empty",
    "SOLVER.IMS_PER_BATCH": "dataloader.train.total_batch_size",
    "DATALOADER.NUM_WORKERS": "dataloader.train.num_workers",
    "DATALOADER.ASPECT_RATIO_GROUPING": "dataloader.train.aspect_ratio_grouping",
    "DATASETS.TEST": "dataloader.test.dataset.names",
}
# These are written back when the model is built, as commands change them: {config key: (key, its default)}.
_HEADS = {
    "MODEL.ROI_HEADS.NUM_CLASSES": ("num_classes", None),
    "TEST.MASK_THRESHOLD": ("mask_threshold", 0.5),
}
_PREDICTOR = {
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": ("test_score_thresh", 0.0),
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": ("test_nms_thresh", 0.5),
    "TEST.DETECTIONS_PER_IMAGE": ("test_topk_per_image", 100),
}
# Keys that Detectron2's configs have, and that have no effect here: {key: (the value that holds, its meaning)}. Other
# values are logged.
_WITHOUT_EFFECT: dict[str, tuple[Any, str]] = {
    "train.log_period": (20, "metrics are written every 20 iterations"),
    "train.checkpointer.max_to_keep": (None, "all checkpoints are kept"),
    "train.ddp.fp16_compression": (False, "gradients are summed over processes in their own precision"),
    "train.ddp.broadcast_buffers": (False, "it is False"),
    "train.ddp.find_unused_parameters": (False, "it is False"),
    "dataloader.test.dataset.filter_empty": (False, "all images are evaluated"),
}
# Other keys of the data loaders' nodes, which are read elsewhere.
_OTHER = (
    "dataloader.train.mapper", "dataloader.train.sampler", "dataloader.test.mapper", "dataloader.evaluator",
    "dataloader.test.num_workers",
)  # fmt: skip
_BUILDERS = {
    "dataloader.train": build_detection_train_loader,
    "dataloader.test": build_detection_test_loader,
    "dataloader.train.dataset": get_detection_dataset_dicts,
    "dataloader.test.dataset": get_detection_dataset_dicts,
}
# What ENGINE may have: keys that do not describe a part of the LazyConfig.
ENGINE_KEYS = (
    "DATALOADER.MAX_BROKEN", "DATALOADER.REPEAT_THRESHOLD", "DATALOADER.SAMPLER", "DATALOADER.SAMPLER_TRAIN",
    "DATASETS.ALLOW_MISSING", "DATASETS.CUSTOM", "DATASETS.RENDERED", "INPUT.COPY_PASTE",
    "MODEL.ACTIVATION_CHECKPOINTING", "MODEL.CHANNELS_LAST", "MODEL.CLASS_PRIOR", "MODEL.COMPILE_BACKBONE", "MODEL.EMA",
    "MODEL.TF32", "MODEL.TRUST_WEIGHTS", "SOLVER.ACCUMULATE_BATCHES", "SOLVER.AMP.DTYPE", "SOLVER.CLIP_GRADIENTS",
    "SOLVER.MAX_SKIPPED_STEPS", "TEST.DETECTIONS_PER_CATEGORY", "TEST.EXPECTED_RESULTS", "TEST.LOSS_IMAGES",
    "TEST.PRECISE_BN", "TEST.SAMPLE_IMAGES", "WANDB", "WATCHDOG",
)  # fmt: skip


def config_of_lazy(path: str, overrides: Sequence[str], default_config: Callable[[], CN]) -> CN:
    """
    The config of a LazyConfig.

    Args:
        path: path of the file.
        overrides: words ``key=value``.
        default_config: returns a new config with all keys.

    Raises:
        InputError: if the file or an override is invalid, a node is missing, or a setting is unknown or not supported.
    """
    lazy, cfg = load_lazy(path, overrides), default_config()
    _check_nodes(lazy, path)
    _check_data_and_train(lazy)
    cfg.LAZY.FILE, cfg.LAZY.OVERRIDES = path, tuple(overrides)
    cfg.MODEL.META_ARCHITECTURE, cfg.SOLVER.OPTIMIZER, cfg.SOLVER.LR_SCHEDULER_NAME = MODEL, LAZY, LAZY
    for key, name in {**_TRAIN, **_DATA}.items():
        if (value := _select(lazy, name)) is not None:
            _set(cfg, key, _names(value) if key.startswith("DATASETS.") else value, name)
    _set_model(cfg, lazy)
    _set_sampler(cfg, lazy)
    _set_evaluator(cfg, lazy)
    _set_engine(cfg, lazy, path)
    return cfg


@contextlib.contextmanager
def named_as_in_file(cfg: CN) -> Iterator[None]:
    """Errors about a config that was made from a LazyConfig also have the keys of the LazyConfig."""
    try:
        yield
    except InputError as error:
        names = {**_TRAIN, **_DATA, **{key: f"model.roi_heads.{name}" for key, (name, _) in _HEADS.items()}}
        found = [f"{key} is {name}" for key, name in names.items() if re.search(rf"{re.escape(key)}\b", str(error))]
        if not cfg.LAZY.FILE or not found:
            raise
        raise type(error)(f"{error}\nIn the LazyConfig, {', '.join(found)}.") from error


def record_lazy(cfg: CN, path: str | os.PathLike) -> None:
    """
    Save the LazyConfig that a config was made from, as a record of the run, and log its settings without effect.

    Args:
        cfg: the config; if it was made from a yaml file, nothing is written.
        path: path of the yaml file, which is for readers: commands read the config and the LazyConfig itself.
    """
    if not cfg.LAZY.FILE:
        return
    lazy = load_lazy(cfg.LAZY.FILE, tuple(cfg.LAZY.OVERRIDES))
    write_text(path, OmegaConf.to_yaml(_in_words(lazy)))
    if found := _without_effect(cfg, lazy):
        logger.info("Settings of the LazyConfig without effect: %s", "; ".join(found))


def _without_effect(cfg: CN, lazy: DictConfig) -> list[str]:
    """The settings whose values differ from those that hold, with a reason."""
    workers = cfg.DATALOADER.NUM_WORKERS
    holding = {
        **_WITHOUT_EFFECT,
        "dataloader.test.num_workers": (workers, f"dataloader.train.num_workers, {workers}, holds for both loaders"),
    }
    values = {name: _select(lazy, name) for name in holding}
    return [f"{name} ({why})" for name, (held, why) in holding.items() if values[name] not in (None, held)]


def _in_words(value):
    """Dictionaries and lists as they are, and anything else that is no plain value as text."""
    value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    if isinstance(value, dict):
        return {key: _in_words(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_in_words(part) for part in value]
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return value if isinstance(value, (str, int, float, type(None))) else re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def write_back(lazy: DictConfig, cfg: CN) -> None:
    """Set, in the model of a LazyConfig, the settings that commands may have changed in its config."""
    heads = lazy.model.roi_heads
    for key, (name, _) in _HEADS.items():
        heads[name] = get(cfg, key)
    for predictor in predictors(lazy):
        for key, (name, _) in _PREDICTOR.items():
            predictor[name] = get(cfg, key)


def predictors(lazy: DictConfig) -> list[DictConfig]:
    """The nodes of the box predictors: one, or one per stage of a cascade."""
    heads = lazy.model.roi_heads
    return list(heads.box_predictors) if "box_predictors" in heads else [heads.box_predictor]


# ---------------------------------------------------------------------- checks of nodes


def _check_nodes(lazy: DictConfig, path: str) -> None:
    for name in NODES:
        if not isinstance(lazy.get(name), DictConfig):
            raise InputError(
                f"{path} has no dictionary {name!r}; a LazyConfig to train must define {', '.join(NODES)}, and may "
                f"define {ENGINE}. Is it a file that other configs import?"
            )
    for found in map(str, lazy):
        if found not in (*NODES, ENGINE):
            raise InputError(
                f"{path}: the dictionary {found!r} has no effect.{did_you_mean(found, (*NODES, ENGINE))} Valid: "
                f"{', '.join((*NODES, ENGINE))}. Names of other dictionaries must begin with an underscore."
            )
    for name in ("model", "optimizer", "lr_multiplier"):
        if "_target_" not in lazy[name]:
            raise InputError(f"{path}: {name} has no _target_; make it with LazyCall, such as L(GeneralizedRCNN)(...).")


def _check_data_and_train(lazy: DictConfig) -> None:
    """Refuses keys that nothing reads, and other loaders, which could not be resumed."""
    known = {*_TRAIN.values(), *_DATA.values(), *_WITHOUT_EFFECT, *_OTHER}
    for name in _leaves(lazy, known):
        section = name.rpartition(".")[0]
        valid = sorted(key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == section)
        raise InputError(
            f"The LazyConfig sets {name}, which is not supported.{did_you_mean(name.rpartition('.')[2], valid)} Valid "
            f"under {section}: {', '.join(valid)}."
        )
    for name, builder in _BUILDERS.items():
        node = _select(lazy, name)
        if node is None and name.startswith("dataloader.test"):
            continue
        if not isinstance(node, DictConfig) or target_of(node) is not builder:
            raise InputError(
                f"{name} of the LazyConfig must be L({builder.__name__})(...), from detectron2.data: its arguments are "
                "read, and the loader is one that can be resumed."
            )


def _leaves(lazy: DictConfig, known: set[str]) -> Iterator[str]:
    """Keys under ``train`` and ``dataloader`` that are not known, nor a section with known keys."""
    sections = {key.rsplit(".", depth)[0] for key in known for depth in range(1, key.count(".") + 1)}
    stack = ["train", "dataloader"]
    while stack:
        for key in _select(lazy, above := stack.pop()) or ():
            name = f"{above}.{key}"
            if name in sections and isinstance(_select(lazy, name), DictConfig):
                stack.append(name)
            elif name not in known and key != "_target_":
                yield name


# ---------------------------------------------------------------------- parts of the config


def _set_model(cfg: CN, lazy: DictConfig) -> None:
    from ..modeling.box_predictor import ActivationOutputLayers
    from ..modeling.roi_heads import LongTailCascadeROIHeads, LongTailROIHeads

    heads = _called(lazy, "model.roi_heads", (LongTailROIHeads, LongTailCascadeROIHeads))
    is_cascade = issubclass(heads, LongTailCascadeROIHeads)
    cfg.MODEL.ROI_HEADS.NAME = (LongTailCascadeROIHeads if is_cascade else LongTailROIHeads).__name__
    first = "model.roi_heads.box_predictor"
    names = [first]
    if is_cascade:
        names = [f"{first}s[{stage}]" for stage in range(len(_select(lazy, f"{first}s") or ()) or 1)]
    for name in names:
        _called(lazy, name, (ActivationOutputLayers,))
    # The thresholds of a cascade are those of its last stage.
    for table, section in ((_HEADS, "model.roi_heads"), (_PREDICTOR, names[-1])):
        for key, (name, default) in table.items():
            value = _select(lazy, f"{section}.{name}")
            _set(cfg, key, default if value is None else value, f"{section}.{name}")
    for key, name in {"PIXEL_MEAN": "model.pixel_mean", "PIXEL_STD": "model.pixel_std"}.items():
        cfg.MODEL[key] = list(_select(lazy, name) or cfg.MODEL[key])
    _set(cfg, "INPUT.FORMAT", _select(lazy, "model.input_format") or cfg.INPUT.FORMAT, "model.input_format")
    cfg.MODEL.MASK_ON = _select(lazy, "model.roi_heads.mask_head") is not None
    _set(cfg, "MODEL.ROI_MASK_HEAD.TEMPERATURE", float(_select(lazy, "model.roi_heads.mask_head.temperature") or 0),
         "model.roi_heads.mask_head.temperature")  # fmt: skip
    _set_method(cfg, lazy, names, "activation", {activation_class(name): name for name in activation_names()})
    _set_method(cfg, lazy, names, "calibration", {calibration_class(name): name for name in calibration_names()})
    _set_size_of_test_images(cfg, lazy)


def _set_method(cfg: CN, lazy: DictConfig, owners: list[str], part: str, names: dict[type, str]) -> None:
    """Set the activation or the calibration, which all box predictors have in common."""
    nodes = [_select(lazy, f"{owner}.{part}") for owner in owners]
    first = next((index for index, node in enumerate(nodes) if node is not None), 0)
    node, where = nodes[first], f"{owners[first]}.{part}"
    if node is None and part == "calibration":
        return
    target = target_of(node) if isinstance(node, DictConfig) and "_target_" in node else None
    if target not in names:
        valid = ", ".join(sorted(cls.__name__ for cls in names))
        raise InputError(
            f"{where} of the LazyConfig must be L(...) of a registered class of balanced_lvis.{part}s, such as "
            f"L({next(iter(names)).__name__})(num_classes=...). Valid: {valid}."
        )
    options = _options(node)
    if any(node is None or target_of(node) is not target or _options(node) != options for node in nodes):
        raise InputError(f"The box predictors of the LazyConfig differ in {part}; it must be the same in all stages.")
    known = keyword_options(target)
    for option in options:
        if option not in known:
            remedy = f"{ENGINE}.MODEL.CLASS_PRIOR.FILE names the class prior" if option == "prior" else "correct it"
            raise InputError(
                f"{where} of the LazyConfig: {target.__name__} has no option {option!r} here; {remedy}."
                f"{did_you_mean(option, known)} Valid: {', '.join(known) or 'none'}."
            )
    head, name = f"MODEL.ROI_BOX_HEAD.{part.upper()}", names[target]
    _set(cfg, f"{head}.NAME", name, where)
    for option, value in options.items():
        _set(cfg, f"{head}.{name.upper()}.{option.upper()}", value, f"{where}.{option}")


def _options(node) -> dict[str, Any]:
    return {name: _plain(node[name]) for name in node if name not in ("_target_", "num_classes")}


def _set_size_of_test_images(cfg: CN, lazy: DictConfig) -> None:
    """Size to which prediction resizes images: that of a single ``ResizeShortestEdge``."""
    found: Any = _select(lazy, "dataloader.test.mapper.augmentations") or ()
    if len(found) == 1 and isinstance(found[0], DictConfig) and "short_edge_length" in found[0]:
        shortest = found[0].short_edge_length
        cfg.INPUT.MIN_SIZE_TEST = int(shortest if isinstance(shortest, int) else shortest[0])
        cfg.INPUT.MAX_SIZE_TEST = int(found[0].get("max_size", cfg.INPUT.MAX_SIZE_TEST))


def _set_sampler(cfg: CN, lazy: DictConfig) -> None:
    """The sampler of the training images; without one, each image once per epoch, as in Detectron2's LazyConfigs."""
    node = _select(lazy, "dataloader.train.sampler")
    own = _select(lazy, f"{ENGINE}.DATALOADER.SAMPLER_TRAIN")
    if node is None:
        cfg.DATALOADER.SAMPLER_TRAIN = TrainingSampler.__name__
        return
    if own:
        raise InputError(
            f"{ENGINE}.DATALOADER.SAMPLER_TRAIN is {own!r}, but dataloader.train.sampler is set too; keep one."
        )
    target = target_of(node)
    if target not in _SAMPLERS:
        raise InputError(
            f"dataloader.train.sampler of the LazyConfig is {getattr(target, '__name__', target)}, which can't be "
            f"resumed; valid: {', '.join(cls.__name__ for cls in _SAMPLERS)}, or a registered sampler in "
            f"{ENGINE}.DATALOADER.SAMPLER_TRAIN."
        )
    cfg.DATALOADER.SAMPLER_TRAIN = target.__name__
    for name in _sampler_arguments(node):
        value, where = _select(node, name), f"dataloader.train.sampler.{name}"
        if name in _SAMPLERS[target]:
            if (key := _SAMPLERS[target][name]) is not None and value is not None:
                _set(cfg, key, float(value), where)
        elif name not in _FIXED or value != _FIXED[name][0]:
            valid = [*_SAMPLERS[target], *_FIXED]
            remedy = _FIXED[name][1] if name in _FIXED else f"remove it.{did_you_mean(name, valid)}"
            raise InputError(f"{where} of the LazyConfig is {_plain(value)!r}, which is not supported: {remedy}")


def _sampler_arguments(node: DictConfig) -> Iterator[str]:
    """Names of the arguments of a sampler, those of its repeat factors below ``repeat_factors``."""
    for name in map(str, node):
        if name != "repeat_factors":
            yield from () if name == "_target_" else (name,)
            continue
        factors, stock = node[name], RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
        if not isinstance(factors, DictConfig) or "_target_" not in factors or target_of(factors) is not stock:
            raise InputError(
                "dataloader.train.sampler.repeat_factors of the LazyConfig must be "
                f"L(RepeatFactorTrainingSampler.{stock.__name__})(...): its threshold is read."
            )
        yield from (f"{name}.{argument}" for argument in map(str, factors) if argument != "_target_")


# {class: {argument: config key}}; None for arguments that describe the dataset, which the engine gives.
_SAMPLERS: dict[Any, dict[str, str | None]] = {
    TrainingSampler: {"size": None},
    RepeatFactorTrainingSampler: {
        "repeat_factors.dataset_dicts": None,
        "repeat_factors.repeat_thresh": "DATALOADER.REPEAT_THRESHOLD",
    },
    InstanceAwareRepeatFactorTrainingSampler: {
        "dataset_dicts": None,
        "class_names": None,
        "threshold": "DATALOADER.REPEAT_THRESHOLD",
        "power": "DATALOADER.SAMPLER.INSTANCEAWAREREPEATFACTORTRAININGSAMPLER.POWER",
    },
    ClassAwareTrainingSampler: {"dataset_dicts": None, "classes": None},
}
# Other arguments of samplers: {argument: (the only value, remedy for others)}.
_FIXED: dict[str, tuple[Any, str]] = {
    "shuffle": (True, "images are always shuffled; remove it."),
    "seed": (None, "set train.seed."),
    "repeat_factors.sqrt": (
        True, f"set {ENGINE}.DATALOADER.SAMPLER.REPEATFACTORTRAININGSAMPLER.POWER to 1 to leave out the square root.",
    ),
}  # fmt: skip


def _set_evaluator(cfg: CN, lazy: DictConfig) -> None:
    from ..evaluation import LVISEvaluator

    if _select(lazy, "dataloader.evaluator") is None:
        return
    _called(lazy, "dataloader.evaluator", (LVISEvaluator,))
    unknown = set(lazy.dataloader.evaluator) - {"_target_", "dataset_name", "backend"}
    if unknown:
        raise InputError(
            f"dataloader.evaluator of the LazyConfig sets {', '.join(sorted(unknown))}; only dataset_name and backend "
            "are supported, and the results are written to train.output_dir."
        )
    name = _plain(_select(lazy, "dataloader.evaluator.dataset_name"))
    if name is not None and _names(name) != cfg.DATASETS.TEST:
        raise InputError(
            f"dataloader.evaluator.dataset_name of the LazyConfig is {name!r}, but dataloader.test.dataset.names is "
            f'{", ".join(cfg.DATASETS.TEST) or "empty"}; set it to "${{..test.dataset.names}}".'
        )
    _set(cfg, "TEST.LVIS_BACKEND", lazy.dataloader.evaluator.get("backend", cfg.TEST.LVIS_BACKEND),
         "dataloader.evaluator.backend")  # fmt: skip


def _set_engine(cfg: CN, lazy: DictConfig, path: str) -> None:
    from ..config_files.merging import merge_mapping

    content = _plain(lazy.get(ENGINE) or {})
    for key in _keys(content):
        if not any(key == valid or key.startswith(f"{valid}.") for valid in ENGINE_KEYS):
            own = {**_TRAIN, **_DATA}.get(key)
            remedy = (
                f"set {own}" if own else "it exists only in yaml configs, or is a part that the LazyConfig declares"
            )
            raise InputError(
                f"{path}: {ENGINE}.{key} is not supported: {remedy}.{did_you_mean(key, ENGINE_KEYS)} Valid under "
                f"{ENGINE}: {', '.join(ENGINE_KEYS)}."
            )
    merge_mapping(cfg, content, f"{path}: {ENGINE}")


def _keys(content: dict, prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


# ---------------------------------------------------------------------- values


def _called(lazy: DictConfig, name: str, classes: tuple[type, ...]):
    """The class that a node calls, which must be one of some classes or derived from one."""
    node = _select(lazy, name)
    target = target_of(node) if isinstance(node, DictConfig) and "_target_" in node else None
    if not isinstance(target, type) or not issubclass(target, classes):
        found = "missing" if target is None else getattr(target, "__name__", target)
        raise InputError(
            f"{name} of the LazyConfig is {found}; it must be L(...) of "
            f"{' or '.join(f'{cls.__module__}.{cls.__name__}' for cls in classes)}."
        )
    return target


def _select(node, name: str):
    """A value by its dotted name, interpolations resolved; None where there is none."""
    try:
        return OmegaConf.select(node, name)
    except OmegaConfBaseException as error:
        raise InputError(f"The LazyConfig's {name} can't be read: {error}") from error


def _plain(value):
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _names(value) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _set(cfg: CN, key: str, value, name: str) -> None:
    from ..config_files.merging import set_value

    value = _plain(value)
    old = get(cfg, key)
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    set_value(cfg, key, value, name)
