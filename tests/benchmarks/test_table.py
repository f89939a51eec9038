from benchmarks import ALL, SUITES, Options, growth, table
from benchmarks import lvis_evaluation as evaluate
from benchmarks.measure import row
from benchmarks.table import seconds
from tests.benchmarks.in_process import in_this_process


def test_a_row_is_readable():
    made = [
        row("masks", "128 RoIs", [2.0, 2.1, 2.2], [0.05, 0.05, 0.05], (1028.4, 3.6), True),
        row("val", "all", [], [75.0], (None, 5000.0), None),
        row("boxes", "few", [1.0], [2.0], None, False),
    ]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(made).splitlines()]
    assert lines[0] == [
        "suite", "work", "stock", "balanced_lvis", "speed-up", "stock MB", "balanced_lvis MB", "identical"
    ]  # fmt: skip
    assert lines[2] == ["masks", "128 RoIs", "2.1 s", "50 ms", "**42** (40 – 44)", "1,028", "4", "yes"]
    assert lines[3] == ["val", "all", "–", "75 s", "–", "–", "5,000", "–"]
    assert lines[4] == ["boxes", "few", "1 s", "2 s", "**0.5** (0.5 – 0.5)", "–", "–", "**no**"]


def test_seconds_come_in_a_unit_that_suits_them():
    assert [seconds(s) for s in (0.00052, 0.0937, 2.956, 1234.5)] == ["0.52 ms", "93.7 ms", "2.96 s", "1234 s"]


def test_all_leaves_out_long_suites_and_those_without_a_comparison():
    assert set(ALL) == set(SUITES) - {"fixed", "mapper", "submission", "val", "floor", "analysis", "report"}


def test_growth_compares_results_at_every_size(monkeypatch):
    monkeypatch.setattr(growth, "CLASSES", (30, 60))
    monkeypatch.setattr(growth, "DETECTIONS", (2, 3))
    monkeypatch.setattr(growth, "IMAGES", ())
    monkeypatch.setattr(growth.masks, "TRAIN_ROIS", 2)
    rows = SUITES["growth"](Options(rounds=1))
    assert [row["size"].split(":")[0] for row in rows] == ["boxes"] * 2 + ["masks"] * 2 + ["rle"] * 2
    assert all(row["identical"] for row in rows)


def test_val_sized_evaluation_is_measured_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate, "VAL_IMAGES", 3)
    monkeypatch.setattr(evaluate, "in_fresh_process", in_this_process(evaluate))
    (found,) = SUITES["val"](Options())
    assert found["stock_seconds"] is found["ratio"] is None
    assert found["ours_seconds"] > 0
