"""The images of registered data sets: from an index where they are in LVIS format, else from Detectron2's loaders."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Sequence
from typing import NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets.lvis import get_lvis_instances_meta, load_lvis_json, register_lvis_instances
from detectron2.utils.file_io import PathManager

from ..utils.errors import InputError
from .custom.converted_records import load_custom
from .index import MODE, ChainedRecords, LVISRecords, open_index


class LVISSource(NamedTuple):
    """What a data set's ``load_lvis_json`` is called with, or our own loader, which knows the ids beforehand."""

    json_file: str
    image_root: str
    dataset_name: str | None = None
    contiguous_ids: dict[int, int] | None = None


def load_records(names: str | Sequence[str], filter_empty: bool = True):
    """
    What Detectron2's ``get_detection_dataset_dicts`` returns: the same images in the same order, as equal records.

    Args:
        names: of registered data sets.
        filter_empty: leave out images without annotations.

    Returns:
        a :class:`~balanced_lvis.data.index.LVISRecords` or :class:`~balanced_lvis.data.index.ChainedRecords` if all
        ``names`` are read by Detectron2's LVIS loader; else a list.

    Raises:
        InputError: if an LVIS file can't be read, or its classes are not those of the data set's metadata.
    """
    names = [names] if isinstance(names, str) else list(names)
    sources = [source for source in map(lvis_source, names) if source is not None]
    indexed = [_indexed(source, filter_empty) for source in sources] if len(sources) == len(names) else []
    parts = [part for part in indexed if part is not None]
    if len(parts) < len(names):
        return _stock_records(names, filter_empty)
    _check_classes(names, parts)
    records = parts[0] if len(parts) == 1 else ChainedRecords(parts)
    if not len(records):
        wanted = "image with annotations" if filter_empty else "image"
        raise InputError(f"There is no {wanted} in {', '.join(names)}; choose another data set.")
    return records


def lvis_source(name: str) -> LVISSource | None:
    """
    Where a data set's images come from if an index can stand for its loader, which is Detectron2's for LVIS or our own
    for polygons; None if not.
    """
    load = DatasetCatalog.data.get(name)  # its own get() calls it
    if converted_file(name):
        return None if has_rle_masks(name) else LVISSource(load.args[0], load.args[1], contiguous_ids=load.args[2])
    if isinstance(load, functools.partial) and load.func is load_lvis_json:
        call = inspect.signature(load_lvis_json).bind_partial(*load.args, **load.keywords).arguments
        known = call.keys() <= set(LVISSource._fields) and {"json_file", "image_root"} <= call.keys()
        return LVISSource(**call) if known else None
    # register_lvis_instances registers a lambda of its own, which holds what it will call the loader with.
    if isinstance(load, types.FunctionType) and load.__code__ in register_lvis_instances.__code__.co_consts:
        held = inspect.getclosurevars(load).nonlocals
        return LVISSource(held["json_file"], held["image_root"], held["name"])
    return None


def converted_file(name: str) -> str | None:
    """The file in LVIS format that a dataset of ``DATASETS.CUSTOM`` is read from; None for any other dataset."""
    load = DatasetCatalog.data.get(name)
    return load.args[0] if isinstance(load, functools.partial) and load.func is load_custom else None


def has_rle_masks(name: str) -> bool:
    """Whether some masks of a data set are run lengths, as far as that is known."""
    return bool(MetadataCatalog.get(name).get("has_rle_masks"))


def _indexed(source: LVISSource, filter_empty: bool) -> LVISRecords | None:
    file = open_index(PathManager.get_local_path(source.json_file))
    if file is None:
        return None
    contiguous_ids = source.contiguous_ids
    if source.dataset_name is not None:  # as the loader does
        metadata = _lvis_metadata(source.dataset_name)
        MetadataCatalog.get(source.dataset_name).set(**metadata)
        contiguous_ids = metadata.get("thing_dataset_id_to_contiguous_id")
    return LVISRecords(file, source.image_root, contiguous_ids, filter_empty)


def _stock_records(names: list[str], filter_empty: bool) -> list[dict]:
    try:
        return get_detection_dataset_dicts(names, filter_empty=filter_empty)
    except KeyError as error:
        if error.args != ("annotations",):
            raise
        raise InputError(
            f"An annotation file of {', '.join(names)} has no 'annotations'. As test-dev's it may do without, but "
            f"Detectron2's own loader can't; unset {MODE}, or make the file's folder one that can be written to."
        ) from error


def _lvis_metadata(name: str) -> dict:
    try:
        return get_lvis_instances_meta(name)
    except ValueError as error:
        raise InputError(
            f"Data set {name!r}: {error}. Detectron2's register_lvis_instances takes data sets with LVIS's classes "
            "and v1 or v0.5 in their name; register others as functools.partial(load_lvis_json, json_file, "
            "image_root), and set thing_classes in their metadata."
        ) from error


def _check_classes(names: list[str], parts: list[LVISRecords]) -> None:
    """What Detectron2 asserts."""
    classes = [MetadataCatalog.get(name).get("thing_classes") for name in names]
    if not all(classes):
        return
    for name, own, part in zip(names, classes, parts):
        if own != classes[0]:
            raise InputError(f"Data sets {names[0]} and {name} have different classes; train on those of one kind.")
        part.class_lists().check(len(own))
