"""The config keys of a calibration."""

from __future__ import annotations

from collections.abc import Mapping

_NODE = "MODEL.ROI_BOX_HEAD.CALIBRATION"


def calibration_keys(name: str, options: Mapping[str, object]) -> dict[str, object]:
    """
    Args:
        name: of a calibration; empty for none.
        options: {option in lower case: value}.

    Returns:
        {config key: value} that selects the calibration with these options.
    """
    return {f"{_NODE}.NAME": name, **{f"{_NODE}.{name}.{option}".upper(): value for option, value in options.items()}}
