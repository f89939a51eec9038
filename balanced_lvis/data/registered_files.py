"""
The annotation files of registered datasets: the file that images are loaded from, and the file for evaluation.

Detectron2's ``DatasetCatalog`` maps names to loaders, which don't show the file that they read. This module keeps a
registry of the loaders that this package registers, and recognises those that are registered with Detectron2's own
functions.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import load_lvis_json

from ..utils.errors import InputError


class LVISSource(NamedTuple):
    """
    An LVIS file that an index can replace the loader of.

    Attributes:
        json_file: path of the annotation file.
        image_root: as for Detectron2's ``load_lvis_json``.
        dataset_name: also; the dataset whose metadata the loader sets.
        contiguous_ids: category ids of the file -> 0..K-1; None: by the metadata of ``dataset_name``, or minus 1.
    """

    json_file: str
    image_root: str
    dataset_name: str | None = None
    contiguous_ids: dict[int, int] | None = None


class ConvertedFile(NamedTuple):
    """
    A file in LVIS format that :mod:`balanced_lvis.data.custom` has made for a dataset.

    Attributes:
        path: of the file.
        is_loaded: whether images are loaded from it, as for datasets under ``DATASETS.CUSTOM``. False: it is used for
            evaluation only, and images are loaded by the loader that someone else registered.
    """

    path: str
    is_loaded: bool


class _Entry(NamedTuple):
    load: Callable[[], list[dict]]  # kept, so that its id is not given to another object
    source: LVISSource | None
    converted: ConvertedFile | None


# By the id of the loader: a name can be registered again, and loaders need not be hashable.
_ENTRIES: dict[int, _Entry] = {}


def register_file(
    name: str,
    load: Callable[[], list[dict]],
    source: LVISSource,
    *,
    is_converted: bool = False,
    has_rle_masks: bool = False,
    **metadata,
) -> None:
    """
    Register a dataset that is loaded from and evaluated with a file in LVIS format, in place of one of the same name.

    Args:
        name: name of the dataset.
        load: the loader for ``DatasetCatalog``.
        source: the file that it reads.
        is_converted: whether :mod:`balanced_lvis.data.custom` has made the file.
        has_rle_masks: whether some masks are RLE masks, which an index can't hold.
        metadata: further metadata, such as ``thing_classes``.
    """
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=source.json_file,
        image_root=source.image_root,
        evaluator_type="lvis",
        has_rle_masks=has_rle_masks,
        **metadata,
    )
    converted = ConvertedFile(source.json_file, is_loaded=True) if is_converted else None
    _ENTRIES[id(load)] = _Entry(load, None if has_rle_masks else source, converted)


def register_evaluation_file(name: str, path: str) -> None:
    """
    Register the file in LVIS format for the evaluation of a dataset that is registered in COCO format.

    Args:
        name: name of the registered dataset.
        path: path of the converted file, in place of an earlier one.
    """
    load = DatasetCatalog.data[name]
    _ENTRIES[id(load)] = _Entry(load, None, ConvertedFile(path, is_loaded=False))


def lvis_source(name: str) -> LVISSource | None:
    """
    The LVIS file that a dataset is loaded from, if its index gives the same records as its loader.

    Recognised are datasets that are registered

    - by :func:`register_file`, without RLE masks;
    - as ``functools.partial(load_lvis_json, json_file, image_root)`` of Detectron2's loader;
    - by Detectron2's ``register_lvis_instances``: the metadata has ``json_file``, ``image_root`` and ``evaluator_type``
      "lvis", and the loader is a function of Detectron2's LVIS module. Custom loaders, which may do anything, are
      functions of other modules, regardless of their metadata.

    Args:
        name: name of the dataset, registered or not.

    Returns:
        None for all others, whose loaders must be called.
    """
    load = DatasetCatalog.data.get(name)  # its own get() calls the loader
    if id(load) in _ENTRIES:
        return _ENTRIES[id(load)].source
    if isinstance(load, functools.partial) and load.func is load_lvis_json:
        call = inspect.signature(load_lvis_json).bind_partial(*load.args, **load.keywords).arguments
        known = call.keys() <= set(LVISSource._fields) and {"json_file", "image_root"} <= call.keys()
        return LVISSource(**call) if known else None
    if getattr(load, "__module__", None) != load_lvis_json.__module__:
        return None
    metadata = MetadataCatalog.get(name)
    json_file, image_root = metadata.get("json_file"), metadata.get("image_root")
    if metadata.get("evaluator_type") != "lvis" or not json_file or image_root is None:
        return None
    return LVISSource(json_file, image_root, name)


def converted_file(name: str) -> ConvertedFile | None:
    """
    Args:
        name: name of the dataset, registered or not.

    Returns:
        the converted file that it is loaded from or evaluated with; None if there is none.
    """
    entry = _ENTRIES.get(id(DatasetCatalog.data.get(name)))
    return entry.converted if entry else None


def has_rle_masks(name: str) -> bool:
    """
    Args:
        name: name of the registered dataset.

    Returns:
        whether it is known that some of its masks are RLE masks.
    """
    return bool(MetadataCatalog.get(name).get("has_rle_masks"))


def evaluation_file_of(name: str) -> str:
    """
    Args:
        name: name of the registered dataset. A dataset in COCO format must be converted first, by
            :func:`balanced_lvis.data.config_datasets.prepare_datasets`.

    Returns:
        the annotation file in LVIS format that it is evaluated with.

    Raises:
        InputError: if there is none.
    """
    if converted := converted_file(name):
        return converted.path
    metadata = MetadataCatalog.get(name)
    evaluator_type, json_file = (metadata.get(key) for key in ("evaluator_type", "json_file"))
    if evaluator_type == "lvis" and json_file:
        return json_file
    if evaluator_type == "coco" and json_file:
        raise InputError(
            f"{name!r} is registered in COCO format ({json_file}) and not converted to LVIS format yet: call "
            "balanced_lvis.data.config_datasets.prepare_datasets(cfg), with the dataset in DATASETS.TEST, before "
            "evaluating."
        )
    raise InputError(
        f"DATASETS.TEST: {name!r} has evaluator_type {evaluator_type!r} and json_file {json_file!r}; an evaluation "
        "needs an annotation file in LVIS or COCO format. Name the file and its folder of images under "
        "DATASETS.CUSTOM, as another dataset (docs/custom_dataset.md), or register it by "
        "Detectron2's register_coco_instances."
    )
