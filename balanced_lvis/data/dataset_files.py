"""Checks that the files of registered datasets exist."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..utils.errors import InputError
from ..utils.user_paths import folder_hint

_LVIS_URL = "https://dl.fbaipublicfiles.com/LVIS/"
_COCO_URL = "http://images.cocodataset.org/zips/"

# LVIS-1.0's validation images are drawn from both COCO folders.
_LVIS_FOLDERS = {"train": ("train2017",), "val": ("train2017", "val2017"), "test": ("test2017",)}


def datasets_root() -> Path:
    """The folder of Detectron2's built-in datasets: ``$DETECTRON2_DATASETS`` or ``./datasets``."""
    return Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))


def check_datasets(names) -> None:
    """
    Args:
        names: names of datasets that are about to be read.

    Raises:
        InputError: if a dataset is not registered, or files of any of them are missing: their paths and
            remedies.
    """
    users: dict[str, list[str]] = {}  # what is missing -> the datasets that need it
    for name in dict.fromkeys(names):
        _check_registered(name)
        for line in _missing_files(name):
            users.setdefault(line, []).append(name)
    if users:
        lines = "\n".join(f"  {line}, for {', '.join(needed_by)}" for line, needed_by in users.items())
        root = datasets_root().absolute()
        is_lvis_v1 = any(name.startswith("lvis_v1") for needed_by in users.values() for name in needed_by)
        tool = "`balanced-lvis prepare-lvis` downloads, links and checks the files of LVIS-1.0.\n" if is_lvis_v1 else ""
        raise InputError(
            f"Dataset files are missing:\n{lines}\n{tool}"
            f"Detectron2's built-in datasets are expected in {root}; set DETECTRON2_DATASETS to the folder that holds "
            "lvis/ and coco/ if yours are elsewhere."
        )


def _check_registered(name: str) -> None:
    if name in DatasetCatalog:
        return
    close = difflib.get_close_matches(name, DatasetCatalog.list(), n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise InputError(f"DATASETS: {name!r}{folder_hint(name)} is not registered.{hint}")


def _missing_files(name: str) -> Iterator[str]:
    metadata = MetadataCatalog.get(name)
    is_lvis_v1 = name.startswith("lvis_v1")
    json_file = metadata.get("json_file")
    if json_file and "://" not in json_file and not os.path.isfile(json_file):
        path = Path(json_file).absolute()
        remedy = _remedy(f"{_LVIS_URL}{path.name}.zip", path.parent) if is_lvis_v1 else ""
        yield f"annotations {path}{folder_hint(path)}{remedy}"
    image_root = metadata.get("image_root")
    if not image_root or "://" in image_root:
        return
    split = next((split for split in _LVIS_FOLDERS if is_lvis_v1 and split in name), "")
    for folder in _LVIS_FOLDERS.get(split, ("",)):
        path = Path(image_root, folder).absolute()
        if not path.is_dir():
            kind = " (it is a file; name the folder of the images)" if path.exists() else ""
            yield f"images {path}{kind}{_remedy(f'{_COCO_URL}{folder}.zip', path.parent) if folder else ''}"


def _remedy(url: str, folder: Path) -> str:
    return f" (download {url} and unzip it in {folder})"
