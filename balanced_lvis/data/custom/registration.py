"""Registration of the datasets under ``DATASETS.CUSTOM``, and conversion of registered COCO datasets."""

from __future__ import annotations

import functools
import logging
import os
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ...priors import ClassPrior
from ...utils.errors import InputError, did_you_mean
from ...utils.text import one_line
from ...utils.user_paths import why_no_file
from ..frequency import OWN_IMAGES
from ..registered_files import LVISSource, converted_file, register_evaluation_file, register_file
from ..training_prior import class_prior_of_dataset
from .conversion_cache import converted
from .convert import TrainCounts
from .converted_file import ConversionSummary, load_converted

logger = logging.getLogger(__name__)

KEYS = ("JSON", "IMAGES")


class Source(NamedTuple):
    """The user's files of a dataset."""

    json_file: str
    image_root: str


def custom_names(cfg) -> list[str]:
    """The datasets under ``DATASETS.CUSTOM`` that are used for training or evaluation."""
    return [name for name in dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)) if name in cfg.DATASETS.CUSTOM]


def source_of(cfg, name: str) -> Source:
    """
    The files of a dataset under ``DATASETS.CUSTOM``.

    Raises:
        InputError: if ``DATASETS.CUSTOM`` lacks them, or has other keys or values.
    """
    node = cfg.DATASETS.CUSTOM[name]
    key = f"DATASETS.CUSTOM.{one_line(name)}"
    unknown = sorted(set(node) - set(KEYS)) if isinstance(node, dict) else [repr(node)]
    if unknown:
        raise InputError(f"{key}: unknown {', '.join(map(one_line, unknown))}; valid: {', '.join(KEYS)}.")
    for part in KEYS:
        if not isinstance(node.get(part), str) or not node[part]:
            what = "the annotation file, in COCO or LVIS format" if part == "JSON" else "the folder of its images"
            raise InputError(f"{key}.{part} is {node.get(part)!r}; set it to {what}.")
    return Source(*(os.path.abspath(os.path.expanduser(node[part])) for part in KEYS))


def prepare_custom(cfg) -> None:
    """
    Convert the datasets under ``DATASETS.CUSTOM`` to LVIS format if necessary, and register them. Datasets for
    evaluation that are registered in COCO format, for example by Detectron2's ``register_coco_instances``, are
    converted too. Training uses their registered loader.

    The frequency groups of evaluation are those in the file. For a file without ``frequency``, they are derived from
    the training set in ``DATASETS.TRAIN``, custom or not, or from ``MODEL.CLASS_PRIOR.FILE`` in an evaluation without
    the training set.

    Raises:
        InputError: if files are missing or invalid, or datasets have different categories.
    """
    names = custom_names(cfg)
    for name in cfg.DATASETS.CUSTOM:
        source_of(cfg, name)
    _check_spelling(cfg)
    if names:
        class_prior_of_dataset.cache_clear()
    first: tuple[str, ConversionSummary] | None = None
    trained: dict[str, ConversionSummary] = {}
    for name in names:
        is_train = name in cfg.DATASETS.TRAIN
        if is_train and not _needed(cfg, name):
            continue
        counts = None if is_train else _training_counts(cfg, trained, name)
        _check_file(cfg, name)
        path, summary = converted(*source_of(cfg, name), counts)
        if first is None:
            first = (name, summary)
        _check_same_categories(cfg, *first, name, summary)
        if counts is not None:
            _check_names(counts, name, source_of(cfg, name), summary)
        if name in cfg.DATASETS.TEST:
            _check_groups(name, source_of(cfg, name), summary, known=is_train or counts is not None)
        _register(name, path, source_of(cfg, name).image_root, summary)
        _check_masks(cfg, name, summary)
        if is_train:
            trained[name] = summary
    for name in trained if len(cfg.DATASETS.TRAIN) > 1 else ():
        if name in cfg.DATASETS.TEST:  # its groups are derived from all training sets, whose counts are known now
            path, summary = converted(*source_of(cfg, name), _training_counts(cfg, trained, name))
            _register(name, path, source_of(cfg, name).image_root, summary)
    for name in dict.fromkeys(cfg.DATASETS.TEST):
        if source := _coco_source(name):
            _convert_registered(cfg, name, source, _training_counts(cfg, trained, name))


def _coco_source(name: str) -> Source | None:
    """The files of a dataset that is registered in COCO format. Missing files are reported later."""
    metadata: Any = MetadataCatalog.get(name) if name in DatasetCatalog else {}
    if metadata.get("evaluator_type") != "coco" or not metadata.get("json_file"):
        return None
    source = Source(
        PathManager.get_local_path(os.fspath(metadata.get("json_file"))), os.fspath(metadata.get("image_root", ""))
    )
    return source if os.path.isfile(source.json_file) else None


def _convert_registered(cfg, name: str, source: Source, counts: TrainCounts | None) -> None:
    path, summary = converted(*source, counts)
    if counts is not None:
        _check_names(counts, name, source, summary)
    _check_groups(name, source, summary, known=counts is not None)
    _check_masks(cfg, name, summary)
    metadata = MetadataCatalog.get(name)
    # Detectron2 sets the same two keys when it reads the file.
    for key, value in (
        ("thing_classes", summary.class_names),
        ("thing_dataset_id_to_contiguous_id", _contiguous_ids(summary)),
    ):
        if metadata.get(key, value) != value:
            raise InputError(
                f"DATASETS.TEST: the metadata of {name!r} has other {key} than its file {source.json_file}, whose "
                "categories are ordered by ascending id. Don't set it when registering: it is read from the file."
            )
        metadata.set(**{key: value})
    register_evaluation_file(name, path)


def _contiguous_ids(summary: ConversionSummary) -> dict[int, int]:
    return {category_id: i for i, category_id in enumerate(summary.category_ids)}


def _check_file(cfg, name: str) -> None:
    path = source_of(cfg, name).json_file
    if not os.path.isfile(path):
        raise InputError(f"DATASETS.CUSTOM.{one_line(name)}.JSON: {path} {why_no_file(path)}.")


def _check_spelling(cfg) -> None:
    """Hints at names under DATASETS.CUSTOM. The later check knows those in use only, by their registration."""
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        hint = did_you_mean(name, cfg.DATASETS.CUSTOM)
        if hint and name not in cfg.DATASETS.CUSTOM and name not in DatasetCatalog:
            raise InputError(f"DATASETS: {name!r} is neither registered nor under DATASETS.CUSTOM.{hint}")


def _needed(cfg, name: str) -> bool:
    """Whether the files of a training set must exist. With a class prior, evaluation doesn't need them."""
    return not cfg.MODEL.CLASS_PRIOR.FILE or os.path.isfile(source_of(cfg, name).json_file)


def _training_counts(cfg, trained: dict[str, ConversionSummary], name: str) -> TrainCounts | None:
    path = cfg.MODEL.CLASS_PRIOR.FILE
    others = [train for train in cfg.DATASETS.TRAIN if train not in cfg.DATASETS.CUSTOM]
    if trained or (others and not path):
        priors = [ClassPrior(tuple(s.class_names), np.array(s.image_count), s.num_images) for s in trained.values()]
        prior = ClassPrior.merge([*priors, *map(class_prior_of_dataset, others)])
        sources = [f"{train} ({source_of(cfg, train).json_file})" for train in trained]
        return _counts_of(prior, f"training set {', '.join([*sources, *others])}")
    if path:
        return _counts_of(ClassPrior.load(path), f"the class prior {path}")
    return None


def _counts_of(prior: ClassPrior, owner: str) -> TrainCounts:
    return TrainCounts(prior.image_count.tolist(), owner, list(prior.class_names))


def _check_same_categories(
    cfg, first_name: str, first: ConversionSummary, name: str, summary: ConversionSummary
) -> None:
    own, other = (list(zip(s.category_ids, s.class_names)) for s in (summary, first))
    if own == other:
        return
    differing = [pair for pair in zip(own, other) if pair[0] != pair[1]]
    if differing:
        (i, a), (j, b) = differing[0]
        difference = f"id {i} {a!r} instead of id {j} {b!r}"
    else:
        difference = f"{len(own)} instead of {len(other)}"
    files = [f"{each} ({source_of(cfg, each).json_file})" for each in (first_name, name)]
    raise InputError(
        f"DATASETS: {files[1]} has other categories than {files[0]}: {difference}. Give both files the same list of "
        "categories."
    )


def _check_groups(name: str, source: Source, summary: ConversionSummary, known: bool) -> None:
    """``known``: whether a training set or a class prior is available."""
    if summary.groups_problem:
        raise InputError(f"DATASETS.TEST: {name} ({source.json_file}) can't be evaluated: {summary.groups_problem}")
    if summary.groups == OWN_IMAGES and not known:
        logger.warning(
            "%s: the training set is unknown, so rare, common and frequent are derived from its own counts.", name
        )


def _check_names(train: TrainCounts, name: str, source: Source, summary: ConversionSummary) -> None:
    """Counts are matched by position, so that different classes of the same number would go unnoticed."""
    for index, (own, trained) in enumerate(zip(summary.class_names, train.class_names)):
        if own != trained:
            raise InputError(
                f"DATASETS: {name} ({source.json_file}) has other categories than {train.owner}: category "
                f"{index + 1}, ordered by id, is {own!r} instead of {trained!r}. Give both the same list of categories."
            )


def _check_masks(cfg, name: str, summary: ConversionSummary) -> None:
    if cfg.MODEL.MASK_ON and summary.num_boxes:
        raise InputError(
            f"MODEL.MASK_ON is True, but {summary.num_boxes:,} annotations of {name} have no mask; set it to False to "
            "train and evaluate boxes."
        )


def _register(name: str, json_file: str, image_root: str, summary: ConversionSummary) -> None:
    if name in DatasetCatalog:
        registered = converted_file(name)
        if registered is None or not registered.is_loaded:
            raise InputError(f"DATASETS.CUSTOM.{name}: {name!r} is the name of another dataset; choose another.")
    contiguous_ids = _contiguous_ids(summary)
    source = LVISSource(json_file, os.path.join(image_root, ""), contiguous_ids=contiguous_ids)
    register_file(
        name,
        functools.partial(load_converted, source.json_file, source.image_root, contiguous_ids),
        source,
        is_converted=True,
        has_rle_masks=summary.num_rles > 0,
        thing_classes=summary.class_names,
        thing_dataset_id_to_contiguous_id=contiguous_ids,
    )
