import pytest
import torch

from benchmarks import SUITES, Options, masks

SMALL = {"rois": 2, "classes": 3, "device": "cpu"}


@pytest.mark.parametrize(("training", "shapes"), [
    (True, [(), (2, 256, 28, 28), (3, 256, 1, 1), (3,)]),
    (False, [(2, 1, 28, 28)]),
])  # fmt: skip
def test_both_contenders_do_the_same_work(training, shapes):
    results = [masks.step_of({**SMALL, "training": training, "contender": c})() for c in masks.CONTENDERS]
    for found in results:
        assert [tuple(t.shape) for t in found] == shapes
        assert all(t.any() for t in found)
    assert all(masks._agree(a, b) for a, b in zip(*results))


def test_results_agree_to_the_rounding_of_their_largest_entry():
    a = torch.tensor([1000.0, 0.0])
    assert masks._agree(a, a + 0.009)
    assert not masks._agree(a, a + 0.011)
    assert not masks._agree(a, a * float("nan"))


def test_the_suite_gives_a_row_for_training_and_one_for_inference(monkeypatch):
    monkeypatch.setattr(masks, "TRAIN_ROIS", 2)
    monkeypatch.setattr(masks, "TEST_ROIS", 3)

    def here(function, job):
        timed = masks.time_both(job) if function.endswith("time_both") else {}
        return {"peak_mb": float(job["rois"]), **timed}

    monkeypatch.setattr(masks, "keep_freed_memory", lambda: None)  # this process runs other tests afterwards
    monkeypatch.setattr(masks, "with_own_peak", here)
    rows = SUITES["masks"](Options(rounds=1))
    assert [(row["suite"], row["stock_peak_mb"], row["identical"]) for row in rows] == [
        ("masks", 2.0, True),
        ("masks", 3.0, True),
    ]


def test_memory_is_that_beyond_inputs_and_gradients():
    """16 RoIs: 60 MB of logits for Detectron2; the features, 12 MB, are in neither number."""
    job = {"rois": 16, "classes": 1203, "device": "cpu", "training": False}
    stock, native = (masks._extra_memory({**job, "contender": contender}) for contender in masks.CONTENDERS)
    assert 0 <= native < 3
    assert stock > 50
