"""Yes-or-no fields of annotations: one reading of them for every part of the project."""

from __future__ import annotations

from collections.abc import Mapping


def read_flag(record: Mapping, name: str) -> bool:
    """
    Args:
        record: an annotation.
        name: of the field: "iscrowd" or "ignore".

    Returns:
        whether it is set: 1 and true are yes; 0, false, null and a missing field are no.

    Raises:
        ValueError: for any other value. "0" would be taken for yes, and an object would be lost.
    """
    value = record.get(name)
    if value is None or value is False or value is True:
        return value is True
    if type(value) is int and value in (0, 1):
        return value == 1
    raise ValueError(f"{name} is {value!r:.60}")
