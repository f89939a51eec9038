"""Boolean fields of annotations, read in the same way in all parts of the project."""

from __future__ import annotations

from collections.abc import Mapping


def read_flag(record: Mapping, name: str) -> bool:
    """
    Read a boolean field.

    Args:
        record: an annotation.
        name: name of the field, "iscrowd" or "ignore".

    Returns:
        True for 1 and true; False for 0, false, null and a missing field.

    Raises:
        ValueError: for any other value. As a truth value, "0" would be True, and an object would be lost.
    """
    value = record.get(name)
    if value is None or value is False or value is True:
        return value is True
    if type(value) is int and value in (0, 1):
        return value == 1
    raise ValueError(f"{name} is {value!r:.60}")
