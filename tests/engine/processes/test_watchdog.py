"""Verdicts of the watchdog on published progress; test_launch.py ends real processes."""

import json
import threading
import time

import pytest
import torch

from balanced_lvis.config import default_config
from balanced_lvis.engine.processes.watchdog import Limits, Watchdog
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.text import first_line

LIMITS = Limits(10.0, 100.0)
NOTHING = {"idle": 0.0, "stage": "computing", "slow": False, "waiting": False, "status": None}


@pytest.fixture
def watchdog():
    """The watchdog of rank 0 of 3, without running threads."""
    store = torch.distributed.HashStore()
    return Watchdog(lambda: store, 0, 3, LIMITS, "the launcher")


def tell(watchdog, *processes):
    """Each state is (idle seconds, stage, slow, waiting)."""
    for rank, (idle, stage, slow, waiting) in enumerate(processes):
        watchdog._take(rank, {**NOTHING, "beat": 1, "idle": idle, "stage": stage, "slow": slow, "waiting": waiting})


LOADING = (9.0, "loading", False, False)
WAITING = (9.0, "exchanging", False, True)
FRESH = (0.1, "computing", False, False)


@pytest.mark.parametrize(
    ("processes", "verdict"),
    [
        ((FRESH, FRESH, FRESH), None),
        ((WAITING, WAITING, FRESH), None),
        ((WAITING, LOADING, WAITING), "rank 1 has been stuck for 9 s: loading"),
        ((LOADING, WAITING, LOADING), "rank 0 has been stuck for 9 s: loading; rank 2 has been stuck for 9 s: loading"),
        ((WAITING, WAITING, WAITING), "all ranks have been waiting for each other for 8 s or more: exchanging"),
        (((50.0, "saving", True, False), WAITING, WAITING), None),
        (((90.0, "saving", True, False), WAITING, WAITING), "rank 0 has been stuck for 90 s: saving"),
    ],
)
def test_who_does_not_go_on_and_waits_for_nobody_is_stuck(watchdog, processes, verdict):
    tell(watchdog, *processes)
    assert watchdog._verdict(time.monotonic()) == verdict


def test_without_a_timeout_there_is_no_verdict_and_a_failure_is_followed(monkeypatch):
    """Even if the store has not answered for a long time."""
    followed, turns = [], iter([False, False, True])
    watchdog = Watchdog(torch.distributed.HashStore, 0, 3, Limits(0.0, 100.0), "the launcher")
    tell(watchdog, LOADING, LOADING, LOADING)
    watchdog._answered = -1e6
    monkeypatch.setattr(watchdog, "_end", lambda *args, **kwargs: pytest.fail(str(args)))
    monkeypatch.setattr(watchdog, "_follow", lambda: followed.append(None))
    monkeypatch.setattr(watchdog._stopped, "wait", lambda seconds: next(turns))
    watchdog._judge()
    assert len(followed) == 2


def test_who_gives_no_sign_of_life_is_named_whatever_it_did_last(watchdog):
    tell(watchdog, FRESH, (0.1, "saving", True, True), FRESH)
    later = time.monotonic() + 9
    for rank in (0, 2):
        watchdog._take(rank, {**NOTHING, "beat": 2})
        watchdog._seen[rank].at = later
    assert watchdog._verdict(later).startswith("rank 1 has sent no heartbeat for 9 s")


def test_the_same_count_again_is_no_sign_of_life(watchdog):
    tell(watchdog, FRESH)
    at = watchdog._seen[0].at
    tell(watchdog, FRESH)
    assert watchdog._seen[0].at == at


def test_what_is_published_is_what_is_read(watchdog):
    told = json.loads(watchdog._store.get("0"))
    assert told["beat"] == 1 and told["idle"] >= 0 and told["stage"]


def test_a_process_that_has_said_why_it_ends_is_followed(watchdog, monkeypatch):
    statuses = []
    monkeypatch.setattr("balanced_lvis.engine.processes.watchdog.exit_now", statuses.append)
    monkeypatch.setattr(watchdog._stopped, "wait", lambda seconds: False)
    tell(watchdog, FRESH, FRESH, FRESH)
    watchdog._follow()
    assert not statuses
    other = Watchdog(lambda: watchdog._store, 1, 3, LIMITS, "the launcher")
    other.say_goodbye(2)
    watchdog._take(1, {**json.loads(watchdog._store.get("1")), "beat": 7})
    watchdog._follow()
    assert statuses == [2]


def test_who_keeps_the_store_stays_until_the_others_have_read_why_it_ends():
    store = torch.distributed.HashStore()
    keeper, other = (Watchdog(lambda: store, rank, 2, LIMITS, "rank 0", keeps_store=rank == 0) for rank in (0, 1))
    leaving = threading.Thread(target=keeper.say_goodbye, args=(5,))
    leaving.start()
    leaving.join(timeout=0.5)
    assert leaving.is_alive()
    other.say_goodbye(5)
    leaving.join(timeout=60)
    assert not leaving.is_alive()


def test_who_keeps_the_store_does_not_wait_for_the_dead(watchdog):
    keeper = Watchdog(lambda: watchdog._store, 0, 2, Limits(0.1, 1.0), "rank 0", keeps_store=True)
    watchdog._store.set("1", json.dumps({**NOTHING, "beat": 1}))
    keeper.say_goodbye(5)


def test_only_what_looks_like_a_lost_process_is_waited_for(watchdog, monkeypatch):
    waited = []
    clock = iter(range(100))
    monkeypatch.setattr("balanced_lvis.engine.processes.watchdog.time.monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(watchdog._stopped, "wait", waited.append)
    for error in (ValueError("connection closed by peer"), RuntimeError("size mismatch")):
        watchdog.explain(error)
    assert not waited
    watchdog.explain(RuntimeError("[gloo] Connection closed by peer [127.0.0.1]\nException raised from"))
    assert waited and all(seconds == 1.0 for seconds in waited)  # until the verdict, after 15 seconds
    assert next(clock) > 15


def test_an_error_is_shown_soon_where_all_processes_live_on(watchdog, monkeypatch):
    tell(watchdog, FRESH, FRESH, FRESH)
    turns = []

    def wait(seconds):
        turns.append(seconds)
        for rank in range(3):
            watchdog._take(rank, {**NOTHING, "beat": 1 + len(turns) - (rank == 2)})
        watchdog._exchanges += 1
        assert len(turns) < 10

    monkeypatch.setattr(watchdog._stopped, "wait", wait)
    watchdog.explain(RuntimeError("NCCL error: unhandled cuda error"))
    assert len(turns) == 3


def test_beats_that_are_read_late_are_no_proof_of_life(watchdog, monkeypatch):
    """On a busy machine, beats from before the death of a process may be read after the connection to it was lost."""
    tell(watchdog, FRESH, FRESH, FRESH)
    clock = iter(range(1000))
    turns = []

    def wait(seconds):
        turns.append(seconds)
        for rank in range(3):  # rank 1 had sent eight beats before it died
            watchdog._take(rank, {**NOTHING, "beat": 9 if rank == 1 else 1 + len(turns)})
        watchdog._exchanges += 1

    monkeypatch.setattr("balanced_lvis.engine.processes.watchdog.time.monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(watchdog._stopped, "wait", wait)
    watchdog.explain(RuntimeError("[gloo] Connection closed by peer [127.0.0.1]"))
    assert next(clock) > 15  # until the verdict


def test_an_error_without_words_has_a_line():
    assert first_line(RuntimeError()) == "RuntimeError"
    assert first_line(RuntimeError("a\nb")) == "a"


@pytest.mark.parametrize(
    ("opts", "message"),
    [(["WATCHDOG.TIMEOUT", -1.0], "TIMEOUT is -1"), (["WATCHDOG.SLOW_TIMEOUT", 5.0], "SLOW_TIMEOUT is 5.0, less")],
)
def test_limits_that_can_not_be_are_refused(opts, message):
    cfg = default_config()
    cfg.merge_from_list(opts)
    with pytest.raises(InputError, match=message):
        Limits.from_config(cfg)
