"""Every merged config is what it was before configs were built on ``_BASE_`` files."""

import json
from pathlib import Path

import pytest

from balanced_lvis.config import default_config, load_config
from tests.common import CONFIGS

# {path: [the entry that it is a difference from, {key: value}]}; "default" has all keys.
RECORDED = json.loads(Path(__file__).with_name("merged_configs.json").read_text(encoding="utf-8"))
# Keys that have been added since, with their defaults.
ADDED_OF_ACTIVATIONS = {
    "CLASS_BALANCED.BETA": 0.9999,
    "CLASS_BALANCED.GAMMA": 0.0,
    "CLASS_BALANCED.COUNT": "image",
    "CLASS_BALANCED.DRW_START": 0,
    "CLASS_BALANCED.REDUCTION": "mean",
    "CLASS_BALANCED_WEIGHTING.COUNT": "image",
    "CLASS_BALANCED_WEIGHTING.DRW_START": 0,
    "CLASS_BALANCED_WEIGHTING.REDUCTION": "weighted_mean",
    "FOCAL.GAMMA": 1.0,
    "LDAM.MAX_MARGIN": 0.5,
    "LDAM.SCALE": 30.0,
    "LDAM.BETA": 0.9999,
    "LDAM.COUNT": "image",
    "LDAM.DRW_START": -1,
    "LDAM.REDUCTION": "weighted_mean",
    "SIGMOID_FOCAL.GAMMA": 2.0,
    "SIGMOID_FOCAL.ALPHA": 0.25,
    "SIGMOID_FOCAL.PRIOR_PROBABILITY": 0.001,
    "SOFTMAX_EQUALIZATION.THRESHOLD": 0.005,
    "SOFTMAX_EQUALIZATION.GAMMA": 0.9,
}
ADDED = {
    "IMPORTS": [],
    "MODEL.ROI_BOX_HEAD.CALIBRATION.NAME": "",
    "MODEL.ROI_BOX_HEAD.CALIBRATION.LOGIT_ADJUSTMENT.TAU": 1.0,
    "MODEL.ROI_BOX_HEAD.CALIBRATION.LOGIT_ADJUSTMENT.COUNT": "image",
    **{f"MODEL.ROI_BOX_HEAD.ACTIVATION.{option}": value for option, value in ADDED_OF_ACTIVATIONS.items()},
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
