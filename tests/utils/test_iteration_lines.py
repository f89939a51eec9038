"""Lines that a resumed run writes again are removed, in the metrics of both kinds of runs alike."""

import json

import pytest

from balanced_lvis.classification.metrics_file import keep_until
from balanced_lvis.engine.metrics_file import forget_after
from balanced_lvis.utils.iteration_lines import iteration_of, keep_before, read_lines


def line(iteration):
    return json.dumps({"total_loss": 1.0, "iteration": iteration}) + "\n"


NESTED = pytest.param("[" * 100_000 + "\n", id="nested too deeply")


@pytest.mark.parametrize(
    "remove",
    [
        lambda folder: keep_before(folder / "metrics.json", 40),
        lambda folder: keep_until(folder, 40),
        lambda folder: forget_after(folder, 39),
    ],
)
@pytest.mark.parametrize(
    "rest", ["", line(5)[:-1], '{"itera', "\0\0", "[]\n", '{"iteration": "5"}\n', "5\n", "\n", NESTED]
)
def test_later_lines_and_invalid_ones_are_removed(tmp_path, remove, rest):
    """A readable last line without its end was not written before a checkpoint: a resumed run writes it again."""
    path = tmp_path / "metrics.json"
    path.write_text("".join(map(line, (0, 19, 39, 40, 59))) + rest)
    remove(tmp_path)
    assert path.read_text() == "".join(map(line, (0, 19, 39)))


def test_a_file_without_such_lines_is_not_written(tmp_path):
    path = tmp_path / "metrics.json"
    keep_before(path, 3)
    assert not path.exists() and read_lines(path) == []
    path.write_text(line(0) + line(2))
    before = path.stat().st_ino
    keep_before(path, 3)
    assert path.stat().st_ino == before
    assert [iteration_of(one) for one in read_lines(path)] == [0, 2]
