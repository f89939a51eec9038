"""Images and categories of the dataset of a submission."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ...data.annotations.annotation_reader import Category, Image, RecordError, read_records
from ...data.annotations.reading import open_annotations
from ...utils.errors import InputError, did_you_mean
from ...utils.user_paths import folder_hint

LVIS_CATEGORIES = 1203


class ImageList:
    """
    Ids and sizes of the images, and ids of the categories, of an annotation file.

    Args:
        json_file: path of the annotation file, with or without annotations. Without categories, those of LVIS-1.0 are
            used.

    Attributes:
        ids: (I,) sorted image ids.
        heights, widths: (I,) sizes in pixels.
        category_ids: (K,) sorted category ids.

    Raises:
        InputError: if the file can't be read, or is not in LVIS or COCO format.
    """

    def __init__(self, json_file: str | os.PathLike):
        images, categories = [], []
        try:
            with open_annotations(json_file) as (_, file):
                for key, record in read_records(file, optional=("categories", "annotations")):
                    if isinstance(record, RecordError) and key != "annotations":
                        raise ValueError(f"in its {key}, {record.named}")
                    if isinstance(record, Image):
                        images.append([record.id, record.height, record.width])
                    elif isinstance(record, Category):
                        categories.append(record.id)
            table = np.array(sorted(images), np.int64)
            self.category_ids = np.unique(np.array(categories or range(1, LVIS_CATEGORIES + 1), np.int64))
        except InputError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"{json_file} is not an annotation file with id, height and width of images, and id and name of "
                f"categories ({error}); pass annotations in LVIS or COCO format."
            ) from error
        if not images:
            raise InputError(f"{json_file} lists no images; pass the annotation file of the dataset.")
        self.ids, self.heights, self.widths = np.ascontiguousarray(table.T)

    def __len__(self) -> int:
        return len(self.ids)


def annotation_file_of(dataset: str, argument: str = "--dataset") -> str:
    """
    Path of the annotation file of a dataset.

    Args:
        dataset: name of the registered dataset, or path of an annotation file.
        argument: argument that the user gave, for messages.

    Raises:
        InputError: if it is neither, or if the file of the dataset does not exist.
    """
    if os.path.isfile(dataset):
        return dataset
    if dataset not in DatasetCatalog:
        hint = did_you_mean(dataset, DatasetCatalog.list())
        custom = " A custom dataset needs the --config-file that registers it." if argument == "--dataset" else ""
        raise InputError(
            f"{argument}: {dataset!r}{folder_hint(dataset)} is neither a file nor a registered dataset.{hint}{custom}"
        )
    json_file = MetadataCatalog.get(dataset).get("json_file")
    if not json_file:
        raise InputError(f"Dataset {dataset!r} has no annotation file; pass the path of one as {argument}.")
    local = PathManager.get_local_path(json_file)
    if not os.path.isfile(local):
        raise InputError(
            f"The annotation file of {dataset}, {Path(local).absolute()}, does not exist; download LVIS-1.0 with "
            f"`balanced-lvis prepare-lvis`, or pass the path of an annotation file as {argument}."
        )
    return local
