"""The :class:`ClassPrior` of registered data sets."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Sequence

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..priors import ALL, WITH_OBJECTS, ClassLists, ClassPrior, SampledCounts
from ..utils.errors import InputError
from .dataset_files import check_datasets
from .dataset_records import load_records, lvis_source
from .samplers import times_shown
from .training_set import training_records

logger = logging.getLogger(__name__)

# Detectron2's metadata knows in how many images each LVIS-1.0 class occurs, but not how many images there are, nor how
# many have an object. Datasets made from it, a tenth of it say, carry the same metadata and have to be counted.
LVIS_V1_TRAIN = "lvis_v1_train"
LVIS_V1_TRAIN_IMAGES = 100_170
LVIS_V1_TRAIN_WITH_OBJECTS = 99_388

SAVED_PRIOR = "class_prior.json"  # in a training's OUTPUT_DIR


def class_prior_from_config(cfg) -> ClassPrior:
    """
    The prior of the images that are trained on, or the one in ``MODEL.CLASS_PRIOR.FILE`` where that is given.

    Trained on are those of ``DATASETS.TRAIN`` that the loader shows: without empty ones if
    ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``, and without missing ones if ``DATASETS.ALLOW_MISSING``. Each process looks
    for those itself, so that it may be called by one alone.

    Where ``MODEL.CLASS_PRIOR.SAMPLED``, with the sampled_counts of ``DATALOADER.SAMPLER_TRAIN``.

    Raises:
        InputError: if the prior's classes are not the data set's, or their number is not
            ``MODEL.ROI_HEADS.NUM_CLASSES``; for a sampler whose sampled_counts are not known.
    """
    names = tuple(cfg.DATASETS.TRAIN)
    path = cfg.MODEL.CLASS_PRIOR.FILE
    if path:
        prior = _prior_of_file(cfg, names, path)
    elif names:
        prior = class_prior_of_training_sets(cfg)
    else:
        raise InputError(
            "Class frequencies of the training set are needed, but DATASETS.TRAIN is empty: set it, or set "
            "MODEL.CLASS_PRIOR.FILE to a file that ClassPrior.save() wrote, such as the class_prior.json of a training "
            "run."
        )
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if prior.num_classes != num_classes:
        source = f"the class prior {path!r}" if path else f"data set {', '.join(names)}"
        raise InputError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}, but {source} has {prior.num_classes} classes; "
            f"set it to {prior.num_classes}."
        )
    return prior


def _prior_of_file(cfg, names: tuple[str, ...], path: str) -> ClassPrior:
    prior = ClassPrior.load(path)
    for name in names:
        if name in DatasetCatalog:
            _check_prior_of(name, prior, _told_by(path, cfg.MODEL.WEIGHTS))
    if not cfg.MODEL.CLASS_PRIOR.SAMPLED:
        return dataclasses.replace(prior, sampled_counts=None)
    known, wanted = prior.sampled_counts and prior.sampled_counts.sampler, _sampler_of(cfg)
    if known != wanted:
        has = f"of {known!r}" if known else "of no sampler"
        raise InputError(
            f"MODEL.CLASS_PRIOR.SAMPLED is True with DATALOADER.SAMPLER_TRAIN {wanted!r}, but MODEL.CLASS_PRIOR.FILE "
            f"{path} has the counts {has}; unset MODEL.CLASS_PRIOR.FILE to count them, or set SAMPLED to False."
        )
    return prior


def class_prior_of_training_sets(cfg) -> ClassPrior:
    """
    As :func:`class_prior_from_config`, without ``MODEL.CLASS_PRIOR.FILE``.

    Args:
        cfg: with at least one dataset in ``DATASETS.TRAIN``.
    """
    names = tuple(cfg.DATASETS.TRAIN)
    sampled, filter_empty = cfg.MODEL.CLASS_PRIOR.SAMPLED, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    if not sampled and not cfg.DATASETS.ALLOW_MISSING:
        return ClassPrior.merge([class_prior_of_dataset(name, filter_empty) for name in names])
    _check_countable(names)
    records = training_records(cfg, together=False)
    prior = ClassPrior.from_dataset_dicts(records, _class_names_of(names[0]), filter_empty)
    if not sampled:
        return prior
    lists = ClassLists.of(records)
    sampled_counts = SampledCounts.of(_sampler_of(cfg), lists, times_shown(cfg, records), prior.num_classes)
    return dataclasses.replace(prior, sampled_counts=sampled_counts)


def _sampler_of(cfg) -> str:
    """The sampler and its option, by which a file's counts are known to be its."""
    name, node = cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER
    if "RepeatFactor" not in name:
        return name
    return f"{name}, threshold {node.REPEAT_THRESHOLD:g}{'' if node.get('REPEAT_SQRT', True) else ', no square root'}"


def _told_by(path: str, weights: str) -> str:
    if os.path.basename(path) == SAVED_PRIOR and weights.startswith(os.path.dirname(path)):
        return f"{path}, which is the one of MODEL.WEIGHTS: is that a checkpoint of these data?"
    return f"MODEL.CLASS_PRIOR.FILE {path}."


def _check_prior_of(name: str, prior: ClassPrior, told_by: str) -> None:
    metadata = MetadataCatalog.get(name)
    if not metadata.get("thing_classes") and os.path.isfile(metadata.get("json_file", "")):
        DatasetCatalog.get(name)  # some loaders set the names as they load
    if metadata.get("thing_classes"):
        try:
            prior.check_classes(metadata.thing_classes, f"data set {name!r}")
        except InputError as error:
            raise InputError(f"{error} The prior is from {told_by}") from error


@functools.lru_cache(maxsize=16)
def class_prior_of_dataset(name: str, filter_empty: bool = True) -> ClassPrior:
    """
    The prior of one registered data set: LVIS-1.0's from Detectron2's metadata, any other's from its annotations.

    Args:
        name: of the dataset.
        filter_empty: N counts images with objects only, as ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``; False: all images.

    Raises:
        InputError: if the data set is unknown, its files are missing or it carries no class names.
    """
    if name == LVIS_V1_TRAIN:
        metadata = MetadataCatalog.get(name)
        counts = {c["id"]: c["image_count"] for c in metadata.class_image_count}
        num_images = LVIS_V1_TRAIN_WITH_OBJECTS if filter_empty else LVIS_V1_TRAIN_IMAGES
        image_count = np.array([counts[i] for i in sorted(counts)])
        return ClassPrior(
            metadata.thing_classes, image_count, num_images, counted=WITH_OBJECTS if filter_empty else ALL
        )
    _check_countable([name])
    logger.info("Counting the classes of %s", name)
    records = load_records(name, filter_empty=False) if lvis_source(name) else DatasetCatalog.get(name)
    return ClassPrior.from_dataset_dicts(records, _class_names_of(name), filter_empty)


def _check_countable(names: Sequence[str]) -> None:
    try:
        check_datasets(names)
    except InputError as error:
        raise InputError(
            f"Class frequencies are counted in {', '.join(names)}, which can't be read. {error}\nOr set "
            "MODEL.CLASS_PRIOR.FILE to the class_prior.json that training wrote to its OUTPUT_DIR."
        ) from error


def _class_names_of(name: str) -> Sequence[str]:
    """To be asked after the records: some loaders set the names as they load."""
    class_names = MetadataCatalog.get(name).get("thing_classes")
    if not class_names:
        raise InputError(f"Data set {name!r} has no class names: set MetadataCatalog.get({name!r}).thing_classes.")
    return class_names
