from benchmarks import SUITES, Options, boxes


def test_the_suite_compares_both_on_the_same_input(monkeypatch):
    monkeypatch.setattr(boxes, "WORKS", [boxes.Work(3000, half=True)])
    (row,) = SUITES["boxes"](Options(rounds=1))
    assert row["size"] == "1000 x 1203 classes, 3000 candidates, half-precision logits"
    assert row["identical"]
    assert row["stock_peak_mb"] > row["ours_peak_mb"] > 0


def test_a_difference_is_seen():
    _, native = boxes.contenders(boxes.Work(3000), "cpu")
    found, other = native(), native()
    assert boxes.identical(found, other)
    other[0][0].scores[5] += 1e-6
    assert not boxes.identical(found, other)
    assert not boxes.identical(found, (other[0], []))
