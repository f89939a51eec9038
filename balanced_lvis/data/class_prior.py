"""The :class:`ClassPrior` of registered data sets."""

from __future__ import annotations

import functools
import logging
import os

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import InputError
from ..priors import ClassPrior
from .checks import check_datasets
from .records import load_records, lvis_source

logger = logging.getLogger(__name__)

# Detectron2's metadata knows in how many images each LVIS-1.0 class occurs, but not how many images there are. Data
# sets made from it, a tenth of it say, carry the same metadata and have to be counted.
LVIS_V1_TRAIN = "lvis_v1_train"
LVIS_V1_TRAIN_IMAGES = 100_170

SAVED_PRIOR = "class_prior.json"  # in a training's OUTPUT_DIR


def class_prior_from_config(cfg) -> ClassPrior:
    """
    The prior of ``DATASETS.TRAIN``, or the one in ``MODEL.CLASS_PRIOR.FILE`` where that is given.

    Raises:
        InputError: if the prior's classes are not the data set's, or their number is not
            ``MODEL.ROI_HEADS.NUM_CLASSES``.
    """
    names = tuple(cfg.DATASETS.TRAIN)
    path = cfg.MODEL.CLASS_PRIOR.FILE
    if path:
        prior = ClassPrior.load(path)
        for name in names:
            if name in DatasetCatalog:
                _check_prior_of(name, prior, _told_by(path, cfg.MODEL.WEIGHTS))
    elif names:
        prior = ClassPrior.merge([class_prior_of_dataset(name) for name in names])
    else:
        raise InputError(
            f"Activation {cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME!r} needs class frequencies: set DATASETS.TRAIN, "
            "or MODEL.CLASS_PRIOR.FILE to a file written by ClassPrior.save()."
        )
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if prior.num_classes != num_classes:
        source = f"the class prior {path!r}" if path else f"data set {', '.join(names)}"
        raise InputError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}, but {source} has {prior.num_classes} classes; "
            f"set it to {prior.num_classes}."
        )
    return prior


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
def class_prior_of_dataset(name: str) -> ClassPrior:
    """
    The prior of one registered data set: LVIS-1.0's from Detectron2's metadata, any other's from its annotations.

    Raises:
        InputError: if the data set is unknown, its files are missing or it carries no class names.
    """
    metadata = MetadataCatalog.get(name)
    class_names = metadata.get("thing_classes")
    if name == LVIS_V1_TRAIN:
        counts = {c["id"]: c["image_count"] for c in metadata.class_image_count}
        return ClassPrior(class_names, [counts[i] for i in sorted(counts)], LVIS_V1_TRAIN_IMAGES)
    try:
        check_datasets([name])
    except InputError as error:
        raise InputError(
            f"Class frequencies are counted in {name}, which can't be read. {error}\nOr set MODEL.CLASS_PRIOR.FILE to "
            "the class_prior.json that training wrote to its OUTPUT_DIR."
        ) from error
    logger.info("Counting the classes of %s", name)
    records = load_records(name, filter_empty=False) if lvis_source(name) else DatasetCatalog.get(name)
    class_names = class_names or metadata.get("thing_classes")  # some loaders set the names as they load
    if not class_names:
        raise InputError(f"Data set {name!r} has no class names: set MetadataCatalog.get({name!r}).thing_classes.")
    return ClassPrior.from_dataset_dicts(records, class_names)
