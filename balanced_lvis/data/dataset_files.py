"""Is every data set there? Asked before anything is built."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..utils.errors import InputError

_LVIS_URL = "https://dl.fbaipublicfiles.com/LVIS/"
_COCO_URL = "http://images.cocodataset.org/zips/"

# In the metadata of a dataset that is registered in COCO format: the file in LVIS format that was made for evaluation.
CONVERTED_FILE = "balanced_lvis_json_file"

# LVIS-1.0's validation images are drawn from both COCO folders.
_LVIS_FOLDERS = {"train": ("train2017",), "val": ("train2017", "val2017"), "test": ("test2017",)}


def datasets_root() -> Path:
    """The folder that Detectron2's built-in data sets live in: ``$DETECTRON2_DATASETS`` or ``./datasets``."""
    return Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))


def check_datasets(names) -> None:
    """
    Args:
        names: names of data sets that are about to be read.

    Raises:
        InputError: if one is not registered, or files are missing: which, where they were looked for and how to get
            them, for all data sets at once.
    """
    users: dict[str, list[str]] = {}  # what is missing -> the data sets that need it
    for name in dict.fromkeys(names):
        _check_registered(name)
        for line in _missing_files(name):
            users.setdefault(line, []).append(name)
    if users:
        lines = "\n".join(f"  {line}, for {', '.join(needed_by)}" for line, needed_by in users.items())
        root = datasets_root().absolute()
        is_lvis_v1 = any(name.startswith("lvis_v1") for needed_by in users.values() for name in needed_by)
        tool = "tools/prepare_lvis.py gets, links and checks LVIS-1.0's.\n" if is_lvis_v1 else ""
        raise InputError(
            f"Data set files are missing:\n{lines}\n{tool}"
            f"Detectron2's own data sets are looked for in {root}; set DETECTRON2_DATASETS to the folder that holds "
            "lvis/ and coco/ if yours are elsewhere."
        )


def check_num_classes(names, num_classes: int) -> None:
    """
    Raises:
        InputError: if a data set whose class names are known doesn't have ``num_classes`` of them.
    """
    for name in names:
        class_names = MetadataCatalog.get(name).get("thing_classes")
        if class_names and len(class_names) != num_classes:
            raise InputError(
                f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}, but data set {name} has {len(class_names)} classes; "
                f"set it to {len(class_names)}."
            )


def evaluation_file_of(name: str) -> str:
    """
    Args:
        name: of a registered dataset. One in COCO format has to be converted first, by
            :func:`balanced_lvis.data.config_datasets.prepare_datasets`.

    Returns:
        the annotation file in LVIS format that it is evaluated with.

    Raises:
        InputError: if there is none.
    """
    metadata = MetadataCatalog.get(name)
    evaluator_type, json_file = (metadata.get(key) for key in ("evaluator_type", "json_file"))
    if evaluator_type == "lvis" and json_file:
        return json_file
    if converted := metadata.get(CONVERTED_FILE):
        return converted
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


def _check_registered(name: str) -> None:
    if name in DatasetCatalog:
        return
    close = difflib.get_close_matches(name, DatasetCatalog.list(), n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    folder = " It is a folder; name the annotation file in it." if os.path.isdir(name) else ""
    raise InputError(f"DATASETS: {name!r} is not registered.{folder}{hint}")


def _missing_files(name: str) -> Iterator[str]:
    metadata = MetadataCatalog.get(name)
    is_lvis_v1 = name.startswith("lvis_v1")
    json_file = metadata.get("json_file")
    if json_file and "://" not in json_file and not os.path.isfile(json_file):
        path = Path(json_file).absolute()
        kind = " (which is a folder; name the file in it)" if path.is_dir() else ""
        yield f"annotations {path}{kind}{_remedy(f'{_LVIS_URL}{path.name}.zip', path.parent) if is_lvis_v1 else ''}"
    image_root = metadata.get("image_root")
    if not image_root or "://" in image_root:
        return
    split = next((split for split in _LVIS_FOLDERS if is_lvis_v1 and split in name), "")
    for folder in _LVIS_FOLDERS.get(split, ("",)):
        path = Path(image_root, folder).absolute()
        if not path.is_dir():
            kind = " (which is a file; name the folder of the images)" if path.exists() else ""
            yield f"images {path}{kind}{_remedy(f'{_COCO_URL}{folder}.zip', path.parent) if folder else ''}"


def _remedy(url: str, folder: Path) -> str:
    return f" (get {url} and unzip it in {folder})"
