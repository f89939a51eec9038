import json
import os
import shutil
from pathlib import Path

import pytest

from balanced_lvis.experiments import run_processes
from balanced_lvis.experiments.run_processes import train_all
from balanced_lvis.experiments.runs import Run
from balanced_lvis.utils.errors import InputError
from tests.common import CONFIGS


@pytest.fixture
def fake(tmp_path):
    """Path of a copy of fake_program.py, whose log and behaviour lie beside it."""
    path = tmp_path / "fake" / "program.py"
    path.parent.mkdir()
    shutil.copy(Path(__file__).with_name("fake_program.py"), path)
    behave(path)
    return path


def behave(fake, **by_name):
    content = {f"{name}/run": value for name, value in by_name.items()}
    (fake.parent / "behaviour.json").write_text(json.dumps(content))


def log(fake):
    """(word, name, threads) of what has happened."""
    lines = [line.split() for line in (fake.parent / "log.txt").read_text().splitlines()]
    return [(word, name.removesuffix("/run"), threads) for word, name, threads in lines]


def events(fake):
    return [f"{word} {name}" for word, name, _ in log(fake)]


def run(output, name, after=None):
    return Run(name, name, CONFIGS / "quick_start" / "sigmoid.yaml", output / name / "run", (), after)


def test_a_run_starts_after_the_one_it_comes_after_and_no_more_run_than_jobs(fake, tmp_path):
    first = run(tmp_path, "first")
    second = run(tmp_path, "second", after=first)
    behave(fake, first=0.5, other=1.5, second=0.1)
    ended = []
    train_all(
        [second, first, run(tmp_path, "other"), run(tmp_path, "last")], fake, 2, lambda r, s: ended.append((r.key, s))
    )
    found = events(fake)
    assert set(found[:2]) == {"start first", "start other"}
    assert found[2:5] == ["end first", "start second", "end second"]
    assert found.index("start last") > found.index("end second")
    assert [key for key, _ in ended[:2]] == ["first", "second"] and len(ended) == 4
    assert ended[0][1] >= 0.5


def test_a_run_whose_predecessor_is_not_among_the_runs_has_nothing_to_wait_for(fake, tmp_path):
    train_all([run(tmp_path, "second", after=run(tmp_path, "first"))], fake)
    assert events(fake) == ["start second", "end second"]


def test_the_runs_share_the_cores(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(run_processes, "_usable_cores", lambda: 8)
    monkeypatch.setattr(run_processes.torch.cuda, "is_available", lambda: False)
    train_all([run(tmp_path, name) for name in "abc"], fake, jobs=2)
    assert {threads for _, _, threads in log(fake)} == {"4"}
    train_all([run(tmp_path, name) for name in "de"], fake)
    assert log(fake)[-1][2] == "4"
    assert run_processes._shares([run(tmp_path, str(i)) for i in range(20)], None, 20)[0] == 8


def test_a_gpu_takes_one_run_at_a_time_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(run_processes.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(run_processes.torch.cuda, "device_count", lambda: 1)
    several = [run(tmp_path, name) for name in "abc"]
    assert run_processes._shares(several, None, 3)[0] == 1
    assert run_processes._gpus_to_share(several) == []
    assert run_processes._shares(several, 3, 3)[0] == 3
    for one in several:
        one.overrides = ("MODEL.DEVICE", "cpu")
    assert run_processes._shares(several, None, 3)[0] == min(3, run_processes._usable_cores())


@pytest.mark.parametrize(("visible", "expected"), [(None, {"0", "1"}), ("3,5", {"3", "5"}), ("6", {"6"})])
def test_each_of_several_gpus_has_its_own_run(fake, tmp_path, monkeypatch, visible, expected):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(run_processes.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(run_processes.torch.cuda, "device_count", lambda: len(expected))
    several = [run(tmp_path, name) for name in "ab"]
    behave(fake, a=1.0, b=1.0)
    train_all(several, fake)
    found = [(one.output / "gpu.txt").read_text() for one in several]
    assert set(found) == expected
    for one in several:
        one.overrides = ("MODEL.DEVICE", "cuda:1")
    assert run_processes._gpus_to_share(several) == []


def test_the_first_failure_ends_the_others_and_shows_the_end_of_its_output(fake, tmp_path):
    behave(fake, bad="fail", slow="hang")
    with pytest.raises(InputError, match=r"Training bad failed with status 5:\nline 15\n(?s:.*)line 29$"):
        train_all([run(tmp_path, "slow"), run(tmp_path, "bad"), run(tmp_path, "never")], fake, jobs=2)
    assert set(events(fake)) == {"start slow", "start bad"}


def test_the_seconds_of_all_calls_are_added_up(fake, tmp_path):
    one, other = run(tmp_path, "one"), run(tmp_path, "other")
    behave(fake, one="hang", other="fail")
    with pytest.raises(InputError, match="Training other failed"):
        train_all([one, other], fake, jobs=2)
    before = [json.loads((run.output / "seconds.json").read_text())["seconds"] for run in (one, other)]
    assert min(before) > 0
    behave(fake, one=1.0)
    ended = {}
    train_all([one, other], fake, 2, lambda run, seconds: ended.setdefault(run.key, seconds))
    after = [json.loads((run.output / "seconds.json").read_text())["seconds"] for run in (one, other)]
    assert after == pytest.approx([before[0] + ended["one"], before[1] + ended["other"]], abs=0.11)


def test_jobs_have_to_be_positive(fake, tmp_path):
    with pytest.raises(InputError, match="jobs is 0"):
        train_all([run(tmp_path, "a")], fake, jobs=0)


def test_a_run_is_finished_when_its_last_model_is_evaluated_as_its_config_asks(fake, tmp_path):
    one = run(tmp_path, "one")
    assert not one.finished(one.config())
    train_all([one], fake)
    assert one.finished(one.config())
    os.utime(one.output / "results.json", (0, 0))  # an evaluation on the way
    assert not one.finished(one.config())
    one.weights.unlink()  # somebody needed the room
    assert one.finished(one.config())
    one.overrides = ("SEED", "7")
    assert not one.finished(one.config())


def test_moved_runs_are_still_the_same_but_other_weights_are_not(fake, tmp_path):
    def second_stage(root):
        weights = root / "first" / "run" / "model_final.pth"
        return Run("second", "", one.config_file, root / "second" / "run", ("MODEL.WEIGHTS", str(weights)))

    one = run(tmp_path / "here", "first")
    train_all([one], fake)
    train_all([second_stage(tmp_path / "here")], fake)
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = second_stage(tmp_path / "there")
    assert moved.finished(moved.config())
    moved.overrides = ("MODEL.WEIGHTS", "elsewhere/model_final.pth")
    assert not moved.finished(moved.config())
