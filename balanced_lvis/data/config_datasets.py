"""Registration of the datasets that a config defines in Detectron2's catalogs."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from detectron2.data import DatasetCatalog
from detectron2.data.datasets.lvis import load_lvis_json

from ..utils.errors import InputError
from .annotations.class_names import class_names_of
from .custom.registration import prepare_custom
from .dataset_files import datasets_root
from .registered_files import LVISSource, register_file
from .rendered import SPLITS, RenderedSpec, annotation_file, render_dataset
from .training_prior import class_prior_of_dataset

RENDERED_PREFIX = "rendered_"


def rendered_spec(cfg) -> RenderedSpec:
    """The parameters under ``DATASETS.RENDERED``."""
    node = cfg.DATASETS.RENDERED
    return RenderedSpec(
        num_classes=node.NUM_CLASSES,
        train_images=node.TRAIN_IMAGES,
        val_images=node.VAL_IMAGES,
        test_images=node.TEST_IMAGES,
        image_size=tuple(node.IMAGE_SIZE),
        objects_per_image=node.OBJECTS_PER_IMAGE,
        object_scale=tuple(node.OBJECT_SCALE),
        seed=node.SEED,
    )


def rendered_root(cfg) -> Path:
    """``DATASETS.RENDERED.ROOT``, or by default one folder for each set of parameters."""
    if cfg.DATASETS.RENDERED.ROOT:
        return Path(cfg.DATASETS.RENDERED.ROOT)
    spec = rendered_spec(cfg)
    digest = hashlib.sha256(repr(spec).encode()).hexdigest()[:8]
    return datasets_root() / f"rendered_{spec.num_classes}x{spec.train_images}_{digest}"


def uses_rendered(cfg) -> bool:
    """Whether the config trains or evaluates on a rendered dataset."""
    return any(name.startswith(RENDERED_PREFIX) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))


def prepare_datasets(cfg) -> None:
    """
    Create and register the datasets that a config defines: rendered ones, and those under ``DATASETS.CUSTOM``.

    Every process of a job has its own catalogs and must call this function, the main process before the others.

    Raises:
        InputError: if files are missing or invalid.
    """
    prepare_rendered(cfg)
    prepare_custom(cfg)


def prepare_dataset(cfg, name: str) -> None:
    """
    As :func:`prepare_datasets`, for one dataset, with or without masks.

    Args:
        cfg: a config, whose ``DATASETS`` and ``MODEL.MASK_ON`` are changed.
        name: name of the dataset; nothing is created for datasets that the config doesn't define.
    """
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), ()
    cfg.MODEL.MASK_ON = False
    prepare_datasets(cfg)


def resolve_num_classes(cfg) -> None:
    """
    Infer ``MODEL.ROI_HEADS.NUM_CLASSES`` from the datasets if it is 0.

    Args:
        cfg: the config to change, even if it is frozen, as it is in the processes of a job.

    Raises:
        InputError: if the datasets can't be read, or there are none.
    """
    if cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        return
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    if not names:
        raise InputError(
            "MODEL.ROI_HEADS.NUM_CLASSES is 0 (inferred from the dataset), but no dataset is set; set "
            "DATASETS.TRAIN or DATASETS.TEST, or the number of classes."
        )
    prepare_datasets(cfg)
    # In an evaluation, the training set may be unavailable.
    known = [name for name in names if name in DatasetCatalog] or names
    heads = cfg.MODEL.ROI_HEADS
    frozen = heads.is_frozen()
    heads.defrost()
    heads.NUM_CLASSES = len(class_names_of(known[0]))
    if frozen:
        heads.freeze()


def prepare_rendered(cfg) -> None:
    """Render the dataset of ``cfg`` if it doesn't exist, and register its splits."""
    if not uses_rendered(cfg):
        return
    register_rendered(render_dataset(rendered_spec(cfg), rendered_root(cfg)))


def register_rendered(root: str | os.PathLike) -> None:
    """
    Register the splits of a rendered dataset as ``rendered_train``, ``rendered_val`` and ``rendered_test_dev``.

    A further call replaces the registration: the names refer to one folder at a time.
    """
    root = Path(root).absolute()
    class_names = class_names_of(annotation_file(root, "val"))
    class_prior_of_dataset.cache_clear()
    for split in SPLITS:
        # Detectron2's loader joins image_root and the split's folder without a separator.
        source = LVISSource(str(annotation_file(root, split)), f"{root}{os.sep}")
        load = functools.partial(load_lvis_json, source.json_file, source.image_root)
        register_file(RENDERED_PREFIX + split, load, source, thing_classes=class_names)
