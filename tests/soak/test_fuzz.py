"""Parsers of untrusted files raise only InputError, and the fuzzer reports any other failure."""

import os
import random
import signal
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balanced_lvis.utils.errors import InputError
from soak import fuzz
from soak.fuzz import Fuzzer, outcome_of, spoilt
from soak.mutations import mutated_bytes, mutated_tree
from soak.targets import Target, targets

TARGETS = {target.name: target for target in targets()}
# Findings in annotations are reported, and what can't be read in a config of mmdetection is left out.
ACCEPTED = ("annotations, validated", "config of mmdetection")


@pytest.mark.parametrize("name", TARGETS)
def test_only_input_errors_come_out_of_a_spoilt_file(name, tmp_path):
    target = TARGETS[name]
    path = tmp_path / target.file_name
    path.write_bytes(target.good)
    assert outcome_of(target, path) == "accepted"
    seen = set()

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def check(rng):
        path.write_bytes(target.spoil(target.good, rng))
        outcome = outcome_of(target, path)
        assert outcome in ("accepted", "refused"), outcome
        seen.add(outcome)

    check()
    assert seen == {"accepted", "refused"} or name in ACCEPTED, "files are spoilt, but not all beyond use"


def parser(parse):
    return Target("fake", "file.txt", b"good", mutated_bytes, parse)


def raises(error):
    def parse(path):
        raise error

    return parse


@pytest.mark.parametrize(
    ("parse", "told"),
    [
        (raises(KeyError("x")), "KeyError: 'x'"),
        (raises(MemoryError()), "MemoryError"),
        (lambda path: os.kill(os.getpid(), signal.SIGSEGV), "ended with status -11"),
        (lambda path: os._exit(3), "ended with status 3"),
        (lambda path: time.sleep(30), "hung"),
    ],
)
def test_a_parser_that_fails_is_a_crash_with_its_file_kept(tmp_path, monkeypatch, parse, told):
    monkeypatch.setattr(fuzz, "LONGEST", 0.5)
    fuzzer = Fuzzer(tmp_path, 1, [parser(parse)])
    fuzzer.run(0.2, at_most=1)
    (crash,) = fuzzer.crashes
    assert told in crash
    (kept,) = (tmp_path / "crashes").iterdir()
    assert kept.read_bytes() == spoilt(fuzzer.targets[0], 1, 0)
    assert fuzzer.as_json()["parsers"]["fake"] == {"inputs": 1, "refused": 0, "crashes": 1}


def test_inputs_are_counted_and_go_on_where_the_last_round_ended(tmp_path):
    def parse(path):
        seen.write_bytes(seen.read_bytes() + path.read_bytes() + b"|")
        raise InputError("no")

    seen = tmp_path / "seen"
    seen.write_bytes(b"")
    fuzzer = Fuzzer(tmp_path, 1, [parser(parse)])
    fuzzer.run(60, at_most=3)
    fuzzer.run(60, at_most=2)
    assert fuzzer.as_json() == {"inputs": 5, "parsers": {"fake": {"inputs": 5, "refused": 5, "crashes": 0}}}
    assert seen.read_bytes() == b"".join(spoilt(fuzzer.targets[0], 1, number) + b"|" for number in range(5))


@given(st.randoms(use_true_random=False))
def test_a_tree_is_changed_in_a_copy(rng):
    tree = {"a": [1, {"b": [2, 3]}], "c": "x"}
    mutated_tree(tree, rng)
    assert tree == {"a": [1, {"b": [2, 3]}], "c": "x"}


def test_most_files_are_other_files():
    for target in TARGETS.values():
        files = {target.spoil(target.good, random.Random(seed)) for seed in range(50)}
        assert len(files) > 30, target.name
