"""Class names of datasets, read without images or annotations."""

from __future__ import annotations

import os

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import get_lvis_instances_meta

from ...utils.errors import InputError
from ...utils.user_paths import folder_hint
from .annotation_reader import read_category
from .json_stream import stream_lists
from .reading import open_annotations


def class_names_of(name_or_json: str | os.PathLike) -> list[str]:
    """
    Args:
        name_or_json: name of a registered dataset, or path of an annotation file in COCO or LVIS format.

    Returns:
        the K names in the order of the classifier's outputs, which is by ascending category id.

    Raises:
        InputError: if it is neither, or has no class names.
    """
    name = os.fspath(name_or_json)
    if os.path.isfile(name):
        return _names_in(name)
    if name not in DatasetCatalog:
        raise InputError(
            f"{name!r}{folder_hint(name)} is neither a file nor a registered dataset; give an annotation file, or a "
            "name such as lvis_v1_val."
        )
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes"):
        return list(metadata.thing_classes)
    try:
        if metadata.get("evaluator_type") == "coco":  # regardless of its name, its classes are those of its file
            raise ValueError(name)
        return list(get_lvis_instances_meta(name)["thing_classes"])
    except ValueError:
        json_file = metadata.get("json_file", "")
        if not os.path.isfile(json_file):
            raise InputError(
                f"Dataset {name!r} has no class names before it is read; pass the path of its annotation file instead."
            ) from None
        return _names_in(json_file)


def check_num_classes(names, num_classes: int) -> None:
    """
    Args:
        names: names of registered datasets.
        num_classes: ``MODEL.ROI_HEADS.NUM_CLASSES``.

    Raises:
        InputError: if a dataset whose class names are known has another number of classes.
    """
    for name in names:
        class_names = MetadataCatalog.get(name).get("thing_classes")
        if class_names and len(class_names) != num_classes:
            raise InputError(
                f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}, but dataset {name} has {len(class_names)} classes; "
                f"set it to {len(class_names)}."
            )


def _names_in(json_file: str) -> list[str]:
    names = {}
    try:
        with open_annotations(json_file) as (_, file):
            for _, element in stream_lists(file, ("categories",)):
                category = read_category(element)
                names[category.id] = category.class_name
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{json_file} has no readable list of categories with id and name ({error}); give an annotation file in "
            "COCO or LVIS format."
        ) from error
    if not names:
        raise InputError(f"{json_file} has no categories.")
    return [names[i] for i in sorted(names)]
