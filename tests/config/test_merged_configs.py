"""Every merged config is what it was before configs were built on ``_BASE_`` files."""

import json
from pathlib import Path

import pytest

from balanced_lvis.config import default_config, load_config
from tests.common import CONFIGS

# {path: [the entry that it is a difference from, {key: value}]}; "default" has all keys.
RECORDED = json.loads(Path(__file__).with_name("merged_configs.json").read_text(encoding="utf-8"))
# Keys that have been added since, with their defaults.
ADDED = {
    "IMPORTS": [],
    "MODEL.ROI_BOX_HEAD.CALIBRATION.NAME": "",
    "MODEL.ROI_BOX_HEAD.CALIBRATION.LOGIT_ADJUSTMENT.TAU": 1.0,
    "MODEL.ROI_BOX_HEAD.CALIBRATION.LOGIT_ADJUSTMENT.COUNT": "image",
}


def recorded(name: str) -> dict:
    if name == "default":
        return {**RECORDED[name], **ADDED}
    other, difference = RECORDED[name]
    return {**recorded(other), **difference}


def flat(node, prefix="") -> dict:
    out = {}
    for key, value in node.items():
        out.update(flat(value, f"{prefix}{key}.") if hasattr(value, "items") else {prefix + key: value})
    return out


def as_recorded(cfg) -> dict:
    return json.loads(json.dumps(flat(cfg)))


def test_the_default_config_is_what_it_was():
    assert as_recorded(default_config()) == recorded("default")


@pytest.mark.parametrize("name", sorted(set(RECORDED) - {"default"}))
def test_a_merged_config_is_what_it_was(name):
    assert as_recorded(load_config(CONFIGS / name)) == recorded(name)
