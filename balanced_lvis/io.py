"""Files that are whole or not there."""

from __future__ import annotations

import json
import math
import os


def write_json(path: str | os.PathLike, content, indent: int | None = None) -> None:
    """
    Write JSON through a temporary name in the same folder, which is made if need be. NaN becomes null.

    A reader never sees a half-written file, and an interrupted write leaves the previous one.
    """
    try:
        text = json.dumps(content, indent=indent, allow_nan=False)
    except ValueError:
        text = json.dumps(_nan_to_none(content), indent=indent, allow_nan=False)
    path = os.fspath(path)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    partial = f"{path}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _nan_to_none(content):
    if isinstance(content, dict):
        return {key: _nan_to_none(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_nan_to_none(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
