"""Every merged config is as recorded: a change of a base config shows where it has an effect."""

import pytest

from tests.config.merged_configs import DEFAULT, merged, names, read_record

RECORDED = read_record()


def test_all_configs_are_recorded():
    """``python -m tests.config.merged_configs`` records them."""
    assert set(RECORDED) == {DEFAULT, *names()}


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_a_merged_config_is_as_recorded(name):
    """``python -m tests.config.merged_configs`` records an intended change."""
    found = merged(name)
    changed = {key: (RECORDED[name].get(key), found.get(key)) for key in RECORDED[name].keys() | found.keys()}
    assert {key: pair for key, pair in changed.items() if pair[0] != pair[1]} == {}
