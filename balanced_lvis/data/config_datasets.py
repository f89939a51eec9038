"""Registration of a config's data sets under Detectron2's catalogs."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import load_lvis_json

from ..utils.errors import InputError
from .class_names import class_names_of
from .custom.register import prepare_custom
from .dataset_files import datasets_root
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
    """``DATASETS.RENDERED.ROOT``, or a folder of its own for every set of parameters."""
    if cfg.DATASETS.RENDERED.ROOT:
        return Path(cfg.DATASETS.RENDERED.ROOT)
    spec = rendered_spec(cfg)
    digest = hashlib.sha256(repr(spec).encode()).hexdigest()[:8]
    return datasets_root() / f"rendered_{spec.num_classes}x{spec.train_images}_{digest}"


def uses_rendered(cfg) -> bool:
    """Whether any of the config's data sets is a rendered one."""
    return any(name.startswith(RENDERED_PREFIX) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))


def prepare_datasets(cfg) -> None:
    """
    Make and register what of a config's data sets is the config's own: rendered ones, and those of ``DATASETS.CUSTOM``.

    Catalogs are each process's own: every process of a job has to call it, the first one for all before them.

    Raises:
        InputError: for files that are missing or can't be relied on.
    """
    prepare_rendered(cfg)
    prepare_custom(cfg)


def prepare_dataset(cfg, name: str) -> None:
    """
    As :func:`prepare_datasets`, of one data set alone, whether it has masks or not.

    Args:
        cfg: of which ``DATASETS`` is changed.
        name: the config's own, or any other, of which nothing is to be made.
    """
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), ()
    cfg.MODEL.MASK_ON = False
    prepare_datasets(cfg)


def resolve_num_classes(cfg) -> None:
    """
    Where ``MODEL.ROI_HEADS.NUM_CLASSES`` is 0, set it to what the data sets have.

    Args:
        cfg: changed even where it is frozen, as a job's processes have it when they meet.

    Raises:
        InputError: if they can't be read, or there is none.
    """
    if cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        return
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    if not names:
        raise InputError("MODEL.ROI_HEADS.NUM_CLASSES is 0, for as many as the data have, but there is no data set.")
    prepare_datasets(cfg)
    # In an evaluation, the training set may be one that isn't there.
    known = [name for name in names if name in DatasetCatalog] or names
    heads = cfg.MODEL.ROI_HEADS
    frozen = heads.is_frozen()
    heads.defrost()
    heads.NUM_CLASSES = len(class_names_of(known[0]))
    if frozen:
        heads.freeze()


def prepare_rendered(cfg) -> None:
    """Render the data set of ``cfg`` unless it is there, and register its splits."""
    if not uses_rendered(cfg):
        return
    register_rendered(render_dataset(rendered_spec(cfg), rendered_root(cfg)))


def register_rendered(root: str | os.PathLike) -> None:
    """
    Register the splits of a rendered data set as ``rendered_train``, ``rendered_val`` and ``rendered_test_dev``.

    The last call wins: the names stand for one folder at a time.
    """
    root = Path(root).absolute()
    with open(annotation_file(root, "val"), encoding="utf-8") as file:
        class_names = [c["name"] for c in json.load(file)["categories"]]
    class_prior_of_dataset.cache_clear()
    for split in SPLITS:
        name = RENDERED_PREFIX + split
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        # Detectron2's loader joins image_root and the split's folder without a separator.
        json_file, image_root = str(annotation_file(root, split)), f"{root}{os.sep}"
        DatasetCatalog.register(name, functools.partial(load_lvis_json, json_file, image_root))
        MetadataCatalog.get(name).set(
            json_file=json_file, image_root=image_root, evaluator_type="lvis", thing_classes=class_names
        )
