"""Annotation files in LVIS format, checked before they are used."""

from __future__ import annotations

import os

from ..data.annotations.annotation_reader import (
    FEDERATED_LISTS,
    RecordError,
    name_of_record,
    read_annotation,
    read_category,
    read_image,
)
from ..utils.errors import InputError
from ..utils.user_paths import path_of, why_no_file
from .lvis_api import LVIS

_READERS = {"images": read_image, "categories": read_category, "annotations": read_annotation}
# Fields that COCO files lack, or may lack, and their types.
_NEEDED: dict[str, dict[str, type | tuple[type, ...]]] = {
    "images": dict.fromkeys(FEDERATED_LISTS, list),
    "categories": {},
    "annotations": {"area": (int, float)},
}
_REMEDY = (
    "correct the file, or name it under DATASETS.CUSTOM of a config, which converts files in COCO format "
    "(docs/custom_dataset.md)"
)


def load_annotations(annotations: str | os.PathLike) -> LVIS:
    """
    Load and check an annotation file.

    Args:
        annotations: path of a file in LVIS format.

    Raises:
        InputError: if it can't be read, is not valid JSON, or a record lacks what an evaluation by the rules of LVIS
            needs. The first such record is named.
    """
    path = path_of(annotations, "annotations")
    if not os.path.isfile(path):
        raise InputError(f"Annotations {path} can't be read: it {why_no_file(path)}.")
    try:
        return _CheckedLVIS(path)
    except OSError as error:
        raise InputError(f"Annotations {path} can't be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"Annotations {path} are not valid JSON ({error}); pass an annotation file in LVIS format, and copy or "
            "download it again if it is damaged."
        ) from error


class _CheckedLVIS(LVIS):
    """As the base class; the content is checked before the API reads it."""

    def _load_json(self, path):
        content = super()._load_json(path)
        _check_content(path, content)
        return content


def _check_content(path: str, content) -> None:
    if not isinstance(content, dict):
        raise _unusable(path, f"its content is of type {type(content).__name__}, not an object")
    for key, read in _READERS.items():
        records = content.get(key)
        if not isinstance(records, list):
            raise _unusable(path, f"it has no list {key!r}")
        for number, element in enumerate(records, 1):
            try:
                read(element)
                _check_needed(element, key)
            except RecordError as error:
                error.record = name_of_record(key, number, element)
                raise _unusable(path, f"in its {key}, {error.named}") from error


def _check_needed(element: dict, key: str) -> None:
    for name, kind in _NEEDED[key].items():
        if not isinstance(element.get(name), kind):
            reason = f"{name} is {element[name]!r:.60}" if name in element else f"has no {name!r}"
            raise RecordError(reason, name, missing=name not in element)


def _unusable(path: str, reason: str) -> InputError:
    return InputError(f"Annotations {path} can't be used: {reason}; {_REMEDY}.")
