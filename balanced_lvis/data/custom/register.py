"""Registration of the data sets under ``DATASETS.CUSTOM`` in Detectron2's catalogs."""

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
from ..dataset_files import CONVERTED_FILE
from ..frequency import OWN_IMAGES
from ..training_prior import class_prior_of_dataset
from .converted_file import converted
from .converted_records import load_custom
from .summary import Summary, TrainCounts

logger = logging.getLogger(__name__)

KEYS = ("JSON", "IMAGES")


class Source(NamedTuple):
    """The user's own files of a data set."""

    json_file: str
    image_root: str


def custom_names(cfg) -> list[str]:
    """The config's data sets of one's own that are trained on or evaluated, each once."""
    return [name for name in dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)) if name in cfg.DATASETS.CUSTOM]


def source_of(cfg, name: str) -> Source:
    """
    Raises:
        InputError: if ``DATASETS.CUSTOM`` doesn't say, or says what it can't.
    """
    node = cfg.DATASETS.CUSTOM[name]
    key = f"DATASETS.CUSTOM.{one_line(name)}"
    unknown = sorted(set(node) - set(KEYS)) if isinstance(node, dict) else [repr(node)]
    if unknown:
        raise InputError(f"{key}: {', '.join(map(one_line, unknown))} not known there; valid: {', '.join(KEYS)}.")
    for part in KEYS:
        if not isinstance(node.get(part), str) or not node[part]:
            what = "the annotation file, in COCO or LVIS format" if part == "JSON" else "the folder of its images"
            raise InputError(f"{key}.{part} is {node.get(part)!r}; set it to {what}.")
    return Source(*(os.path.abspath(os.path.expanduser(node[part])) for part in KEYS))


def prepare_custom(cfg) -> None:
    """
    Convert the config's own data sets to LVIS format unless that has been done, and register them. Datasets that others
    registered in COCO format, as Detectron2's ``register_coco_instances`` does, are converted too where they are
    evaluated; what is trained on stays Detectron2's.

    Rare, common and frequent are what an evaluated file's own ``frequency`` says. In files without it, they follow from
    the training set: of ``DATASETS.TRAIN``, whoever registered it; in an evaluation without it, of
    ``MODEL.CLASS_PRIOR.FILE``.

    Raises:
        InputError: for files that are missing or can't be relied on, and for data sets of different categories.
    """
    names = custom_names(cfg)
    for name in cfg.DATASETS.CUSTOM:
        source_of(cfg, name)
    _check_spelling(cfg)
    if names:
        class_prior_of_dataset.cache_clear()
    first: tuple[str, Summary] | None = None
    trained: dict[str, Summary] = {}
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
        if name in cfg.DATASETS.TEST:  # its groups are those of all training sets together, known only now
            path, summary = converted(*source_of(cfg, name), _training_counts(cfg, trained, name))
            _register(name, path, source_of(cfg, name).image_root, summary)
    for name in dict.fromkeys(cfg.DATASETS.TEST):
        if source := _coco_source(name):
            _convert_registered(cfg, name, source, _training_counts(cfg, trained, name))


def _coco_source(name: str) -> Source | None:
    """The files of a dataset that is registered in COCO format; those that are missing are reported later."""
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
    # Detectron2 sets the same two when it reads the file.
    for key, value in (
        ("thing_classes", summary.class_names),
        ("thing_dataset_id_to_contiguous_id", _contiguous_ids(summary)),
    ):
        if metadata.get(key, value) != value:
            raise InputError(
                f"DATASETS.TEST: the metadata of {name!r} has other {key} than its file {source.json_file}, in which "
                "categories are numbered by ascending id. Leave it out when registering: it is read from the file."
            )
        metadata.set(**{key: value})
    vars(metadata)[CONVERTED_FILE] = path  # which Detectron2 lets nobody change, and another training set does


def _contiguous_ids(summary: Summary) -> dict[int, int]:
    return {category_id: i for i, category_id in enumerate(summary.category_ids)}


def _check_file(cfg, name: str) -> None:
    path = source_of(cfg, name).json_file
    if not os.path.isfile(path):
        raise InputError(f"DATASETS.CUSTOM.{one_line(name)}.JSON: {path} {why_no_file(path)}.")


def _check_spelling(cfg) -> None:
    """The catalog, which is asked later, has only those of one's own that are used."""
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        hint = did_you_mean(name, cfg.DATASETS.CUSTOM)
        if hint and name not in cfg.DATASETS.CUSTOM and name not in DatasetCatalog:
            raise InputError(f"DATASETS: {name!r} is not registered, nor under DATASETS.CUSTOM.{hint}")


def _needed(cfg, name: str) -> bool:
    """Whether a training set is there, or has to be: evaluation does without its files where a prior stands for it."""
    return not cfg.MODEL.CLASS_PRIOR.FILE or os.path.isfile(source_of(cfg, name).json_file)


def _training_counts(cfg, trained: dict[str, Summary], name: str) -> TrainCounts | None:
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


def _check_same_categories(cfg, first_name: str, first: Summary, name: str, summary: Summary) -> None:
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


def _check_groups(name: str, source: Source, summary: Summary, known: bool) -> None:
    """``known``: whether there is a training set or a class prior."""
    if summary.groups_problem:
        raise InputError(f"DATASETS.TEST: {name} ({source.json_file}) can't be evaluated: {summary.groups_problem}")
    if summary.groups == OWN_IMAGES and not known:
        logger.warning("%s: no training set is known, so that rare, common and frequent are by its own counts.", name)


def _check_names(train: TrainCounts, name: str, source: Source, summary: Summary) -> None:
    """Counts are by the classes' order, which the same number of other classes would pass for."""
    for index, (own, trained) in enumerate(zip(summary.class_names, train.class_names)):
        if own != trained:
            raise InputError(
                f"DATASETS: {name} ({source.json_file}) has other categories than {train.owner}: number "
                f"{index + 1} by id is {own!r} instead of {trained!r}. Give both the same list of categories."
            )


def _check_masks(cfg, name: str, summary: Summary) -> None:
    if cfg.MODEL.MASK_ON and summary.num_boxes:
        raise InputError(
            f"MODEL.MASK_ON is True, but {summary.num_boxes:,} annotations of {name} have no mask; set it to False to "
            "train and evaluate boxes."
        )


def _register(name: str, json_file: str, image_root: str, summary: Summary) -> None:
    if name in DatasetCatalog:
        load = DatasetCatalog.data[name]
        if not isinstance(load, functools.partial) or load.func is not load_custom:
            raise InputError(f"DATASETS.CUSTOM.{name}: {name!r} is the name of another data set; choose another.")
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    contiguous_ids = _contiguous_ids(summary)
    image_root = os.path.join(image_root, "")
    DatasetCatalog.register(name, functools.partial(load_custom, json_file, image_root, contiguous_ids))
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="lvis",
        thing_classes=summary.class_names,
        thing_dataset_id_to_contiguous_id=contiguous_ids,
        has_rle_masks=summary.num_rles > 0,
    )
