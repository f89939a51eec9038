"""Class priors of registered datasets."""

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
from ..utils.run_files import SAVED_PRIOR
from .box_centres import dimension_of_records
from .copy_paste import check_counts_are_known
from .dataset_files import check_datasets
from .dataset_records import load_records
from .registered_files import lvis_source
from .samplers import sampler_options, times_shown
from .training_set import training_records

logger = logging.getLogger(__name__)

# Detectron2's metadata has the number of images of each LVIS-1.0 class, but not the number of all images, or of those
# with objects. Subsets of LVIS-1.0 have the same metadata and must be counted.
LVIS_V1_TRAIN = "lvis_v1_train"
LVIS_V1_TRAIN_IMAGES = 100_170
LVIS_V1_TRAIN_WITH_OBJECTS = 99_388


def class_prior_from_config(cfg, boxes: bool = False) -> ClassPrior:
    """
    The prior in ``MODEL.CLASS_PRIOR.FILE`` if that is set, else the prior of the training images.

    The training images are those of ``DATASETS.TRAIN`` that the loader yields: without empty ones if
    ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``, and without missing ones if ``DATASETS.ALLOW_MISSING``. Each process looks
    for missing images itself, so that a single process may call this function.

    With ``MODEL.CLASS_PRIOR.SAMPLED``, the prior includes the counts of the images that ``DATALOADER.SAMPLER_TRAIN``
    samples.

    Args:
        cfg: Detectron2's config with balanced_lvis's keys.
        boxes: also compute the fractal dimension of the box centres of each class, which needs the annotations; a file
            is used as it is.

    Raises:
        InputError: if the prior's classes differ from the dataset's, if their number is not
            ``MODEL.ROI_HEADS.NUM_CLASSES``, or if the sampled counts are unknown, as with copy-paste.
    """
    names = tuple(cfg.DATASETS.TRAIN)
    path = cfg.MODEL.CLASS_PRIOR.FILE
    if path:
        prior = _prior_of_file(cfg, names, path)
    elif names:
        prior = class_prior_of_training_sets(cfg, boxes)
    else:
        raise InputError(
            "Class frequencies of the training set are needed, but DATASETS.TRAIN is empty: set it, or set "
            "MODEL.CLASS_PRIOR.FILE to a file that ClassPrior.save() wrote, such as the class_prior.json of a training "
            "run."
        )
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if prior.num_classes != num_classes:
        source = f"the class prior {path!r}" if path else f"dataset {', '.join(names)}"
        raise InputError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}, but {source} has {prior.num_classes} classes; "
            f"set it to {prior.num_classes}."
        )
    return prior


def _prior_of_file(cfg, names: tuple[str, ...], path: str) -> ClassPrior:
    prior = ClassPrior.load(path)
    for name in names:
        if name in DatasetCatalog:
            _check_prior_of(name, prior, _described(path, cfg.MODEL.WEIGHTS))
    if not cfg.MODEL.CLASS_PRIOR.SAMPLED:
        return dataclasses.replace(prior, sampled_counts=None)
    check_counts_are_known(cfg)
    known, wanted = prior.sampled_counts and prior.sampled_counts.sampler, _sampler_of(cfg)
    if known != wanted:
        has = f"of {known!r}" if known else "of no sampler"
        raise InputError(
            f"MODEL.CLASS_PRIOR.SAMPLED is True with DATALOADER.SAMPLER_TRAIN {wanted!r}, but MODEL.CLASS_PRIOR.FILE "
            f"{path} has the counts {has}; unset MODEL.CLASS_PRIOR.FILE to count them, or set SAMPLED to False."
        )
    return prior


def class_prior_of_training_sets(cfg, boxes: bool = False) -> ClassPrior:
    """
    As :func:`class_prior_from_config`, without ``MODEL.CLASS_PRIOR.FILE``.

    Args:
        cfg: with at least one dataset in ``DATASETS.TRAIN``.
        boxes: as for :func:`class_prior_from_config`.
    """
    prior = _counts_of_training_sets(cfg)
    return with_fractal_dimension(cfg, prior) if boxes else prior


def with_fractal_dimension(cfg, prior: ClassPrior) -> ClassPrior:
    """
    The prior together with the fractal dimension of the box centres of each class in the training images.

    Args:
        cfg: with at least one dataset in ``DATASETS.TRAIN``.
        prior: of these datasets.

    Raises:
        InputError: if the annotations can't be read, as for LVIS-1.0's counts from Detectron2's metadata, or don't have
            the boxes.
    """
    check_datasets(cfg.DATASETS.TRAIN)
    logger.info("Computing the fractal dimension of the box centres of %s", ", ".join(cfg.DATASETS.TRAIN))
    dimension = dimension_of_records(training_records(cfg, together=False), prior.num_classes)
    return dataclasses.replace(prior, fractal_dimension=dimension)


def _counts_of_training_sets(cfg) -> ClassPrior:
    check_counts_are_known(cfg)
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
    """The sampler and those of its options that are not at their defaults, as saved with the counts."""
    name, node = cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER
    words = [name]
    if "RepeatFactor" in name:
        words += [
            f"threshold {node.REPEAT_THRESHOLD:g}",
            *([] if node.get("REPEAT_SQRT", True) else ["no square root"]),
        ]
    changed = sampler_options(cfg, name, changed=True)
    return ", ".join([*words, *(f"{option} {value}" for option, value in changed.items())])


def _described(path: str, weights: str) -> str:
    if os.path.basename(path) == SAVED_PRIOR and weights.startswith(os.path.dirname(path)):
        return f"{path}, next to MODEL.WEIGHTS: is that a checkpoint for this dataset?"
    return f"MODEL.CLASS_PRIOR.FILE {path}."


def _check_prior_of(name: str, prior: ClassPrior, source: str) -> None:
    metadata = MetadataCatalog.get(name)
    if not metadata.get("thing_classes") and os.path.isfile(metadata.get("json_file", "")):
        DatasetCatalog.get(name)  # some loaders set the names while loading
    if metadata.get("thing_classes"):
        try:
            prior.check_classes(metadata.thing_classes, f"dataset {name!r}")
        except InputError as error:
            raise InputError(f"{error} The prior is from {source}") from error


@functools.lru_cache(maxsize=16)
def class_prior_of_dataset(name: str, filter_empty: bool = True) -> ClassPrior:
    """
    The prior of one registered dataset: from Detectron2's metadata for LVIS-1.0, else from its annotations.

    Args:
        name: name of the registered dataset.
        filter_empty: N counts only images with objects, as ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``; False: all.

    Raises:
        InputError: if the dataset is not registered, its files are missing or it has no class names.
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
            f"The dataset {', '.join(names)}, in which class frequencies are counted, can't be read. {error}\nOr set "
            "MODEL.CLASS_PRIOR.FILE to the class_prior.json that a training run wrote to its OUTPUT_DIR."
        ) from error


def _class_names_of(name: str) -> Sequence[str]:
    """Must be called after the records are loaded, because some loaders set the names then."""
    class_names = MetadataCatalog.get(name).get("thing_classes")
    if not class_names:
        raise InputError(f"Dataset {name!r} has no class names: set MetadataCatalog.get({name!r}).thing_classes.")
    return class_names
