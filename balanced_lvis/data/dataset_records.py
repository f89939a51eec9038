"""Image records of registered datasets: from an index for LVIS files, else from their loaders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets.lvis import get_lvis_instances_meta
from detectron2.utils.file_io import PathManager

from ..utils.errors import InputError
from .images.image_paths import missing_images
from .index import MODE, ChainedRecords, LVISRecords, open_index
from .registered_files import LVISSource, lvis_source


def load_records(names: str | Sequence[str], filter_empty: bool = True):
    """
    Load what Detectron2's ``get_detection_dataset_dicts`` returns: equal records of the same images in the same order.

    Args:
        names: names of registered datasets.
        filter_empty: leave out images without annotations.

    Returns:
        a :class:`~balanced_lvis.data.index.LVISRecords` or :class:`~balanced_lvis.data.index.ChainedRecords` if all
        datasets have an :func:`~balanced_lvis.data.registered_files.lvis_source`; else a list.

    Raises:
        InputError: if an LVIS file can't be read, or its classes are not those of the dataset's metadata.
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
        raise InputError(f"{', '.join(names)} has no {wanted}; choose another dataset.")
    return records


def choose_records(name: str, count: int, seed: int = 0) -> list[dict]:
    """
    Records of a random choice of the images with annotations, in the order of the dataset.

    Args:
        name: name of a registered dataset.
        count: number of images; all if there are fewer.
        seed: of the choice. A larger ``count`` adds images to the same choice.

    Raises:
        InputError: as for :func:`load_records`, and if no image has annotations.
    """
    records = load_records(name)
    order = np.random.default_rng(seed).permutation(len(records))
    return [records[int(i)] for i in np.sort(order[:count])]


def file_names(records) -> list[str]:
    """
    Args:
        records: from :func:`load_records`, or a list.

    Returns:
        the path of each image.
    """
    if hasattr(records, "file_names"):
        return records.file_names()
    return [record["file_name"] for record in records]


def missing_records(records) -> list[int]:
    """
    Args:
        records: as for :func:`file_names`.

    Returns:
        ascending positions of images that are not on the disk. Remote ones, which are fetched when they are read, are
        not among them.
    """
    paths = file_names(records)
    local = [i for i, path in enumerate(paths) if "://" not in path]
    return [local[i] for i in missing_images([paths[i] for i in local])]


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
            f"An annotation file of {', '.join(names)} has no 'annotations', like that of test-dev. Without an index, "
            f"it is read by Detectron2's loader, which needs them; unset {MODE}, or make the file's folder writable."
        ) from error


def _lvis_metadata(name: str) -> dict:
    try:
        return get_lvis_instances_meta(name)
    except ValueError as error:
        raise InputError(
            f"Dataset {name!r}: {error}. Detectron2's register_lvis_instances is for datasets with LVIS's classes and "
            "v1 or v0.5 in their name; register others as functools.partial(load_lvis_json, json_file, "
            "image_root), and set thing_classes in their metadata."
        ) from error


def _check_classes(names: list[str], parts: list[LVISRecords]) -> None:
    """The same checks as Detectron2's assertions."""
    classes = [MetadataCatalog.get(name).get("thing_classes") for name in names]
    if not all(classes):
        return
    for name, own, part in zip(names, classes, parts):
        if own != classes[0]:
            raise InputError(
                f"Datasets {names[0]} and {name} have different classes; train on datasets with the same classes."
            )
        part.class_lists().check(len(own))
