"""
Record of all merged configs, so that a change of a base config or of a default shows where it has an effect.

``python -m tests.config.merged_configs`` rewrites ``merged_configs.json`` after an intended change; its diff is part of
the review.
"""

from __future__ import annotations

import json
from pathlib import Path

from balanced_lvis.config import default_config, load_config
from balanced_lvis.config_files.keys import flat
from balanced_lvis.config_files.names import config_names
from tests.common import CONFIGS

RECORD = Path(__file__).with_name("merged_configs.json")
DEFAULT = "default"
# Other configs are recorded as the difference from the most similar of these.
ANCHORS = ("r50_rfs", "rendered/rfs", "r101_rfs")


def merged(name: str) -> dict:
    """The merged config of a name, or the default config, as JSON stores it."""
    cfg = default_config() if name == DEFAULT else load_config(CONFIGS / f"{name}.yaml")
    return json.loads(json.dumps(flat(cfg)))


def read_record() -> dict[str, dict]:
    """{name: {dotted key: value}}, with all keys of each config."""
    found: dict[str, dict] = {}
    for name, (other, difference) in json.loads(RECORD.read_text(encoding="utf-8")).items():
        found[name] = {**(found[other] if other else {}), **difference}
    return found


def names() -> list[str]:
    """All yaml configs of detection; the anchors come first, as others are recorded as differences from them."""
    of_detection = [name for name in config_names() if not name.startswith(("classification/", "lazy/"))]
    return [*ANCHORS, *(name for name in of_detection if name not in ANCHORS)]


def _record() -> dict[str, list]:
    values = {name: merged(name) for name in [DEFAULT, *names()]}
    lines: dict[str, list] = {DEFAULT: ["", values[DEFAULT]]}
    for at, name in enumerate(names()):
        others = [DEFAULT, *ANCHORS[:at]]
        differences = {other: _difference(values[other], values[name]) for other in others}
        nearest = min(others, key=lambda other: len(differences[other]))
        lines[name] = [nearest, differences[nearest]]
    return lines


def _difference(one: dict, other: dict) -> dict:
    return {key: value for key, value in sorted(other.items()) if key not in one or one[key] != value}


if __name__ == "__main__":
    entries = []
    for name, (other, difference) in _record().items():
        keys = ",\n ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in difference.items())
        entries.append(f"{json.dumps(name)}: [{json.dumps(other)}, {{\n {keys}}}]")
    RECORD.write_text("{" + ",\n".join(entries) + "}\n", encoding="utf-8")
