"""``metrics.json`` after a kill: lines that are written again are removed first."""

import json

import pytest

from balanced_lvis.engine.metrics_file import forget_after, has_evaluation


def line(iteration):
    return json.dumps({"iteration": iteration, "total_loss": 1.0}) + "\n"


@pytest.mark.parametrize("rest", ["", '{"iteration": 39, "tot', "\0\0\0", '{"iteration": 5}', "[]\n"])
def test_what_will_be_written_again_and_what_was_cut_short_is_dropped(tmp_path, rest):
    path = tmp_path / "metrics.json"
    path.write_text("".join(map(line, (0, 19, 39, 59))) + rest)
    forget_after(tmp_path, 39)
    assert path.read_text() == "".join(map(line, (0, 19, 39)))


def test_a_file_without_a_fault_is_left_alone(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(line(0) + line(19))
    before = path.stat().st_ino
    forget_after(tmp_path, 19)
    assert path.stat().st_ino == before
    forget_after(tmp_path / "nowhere", 3)


def test_an_evaluation_is_on_record_by_its_average_precision_also_where_that_is_no_number(tmp_path):
    assert not has_evaluation(tmp_path, 0)
    numbers = {"iteration": 39, "total_loss": 1.0, "my_val/bbox/AP": float("nan")}
    (tmp_path / "metrics.json").write_text(line(19) + json.dumps(numbers) + '\n{"iteration": 59, "bbox/A')
    assert [iteration for iteration in range(80) if has_evaluation(tmp_path, iteration)] == [39]
