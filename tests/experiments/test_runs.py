"""Deletion of runs of other configs, which all experiments share."""

import pytest
from yacs.config import CfgNode as CN

from balanced_lvis.experiments.runs import Run, discard_stale


class SmallRun(Run):
    """A run with three keys."""

    def load_config(self, config_file, overrides=()):
        cfg = CN({"OUTPUT_DIR": "", "IMPORTS": (), "SEED": 0, "MODEL": CN({"WEIGHTS": "", "DEVICE": "cpu"})})
        if config_file.exists():
            cfg.merge_from_file(str(config_file))
        cfg.merge_from_list(list(overrides))
        return cfg


def run(folder, name, seed, after=None, finished=True):
    """A run of seed 0 whose folder has the output of a run of ``seed``."""
    found = SmallRun(name, name, folder / "none.yaml", folder / name, ("SEED", 0), after)
    found.output.mkdir()
    cfg = found.config().clone()
    cfg.SEED = seed
    (found.output / "config.yaml").write_text(cfg.dump())
    if finished:
        (found.output / "results.json").write_text("{}")
        (found.output / "last_checkpoint").write_text("model_final.pth")
    return found


@pytest.mark.parametrize(
    ("finished", "line"),
    [
        ((True, True, True), "2 finished runs of another config in {} are deleted, the first of them: other\n"),
        ((True, False, True), "1 finished run of another config in {} is deleted: other\n"),
        ((False, False, True), ""),
    ],
)
def test_finished_runs_that_are_deleted_are_counted(finished, line, tmp_path, capsys):
    other = run(tmp_path, "other", 7, finished=finished[0])
    second = run(tmp_path, "second", 0, after=other, finished=finished[1])
    same = run(tmp_path, "same", 0, finished=finished[2])
    discard_stale([other, second], [other, second, same], tmp_path)
    assert capsys.readouterr().out == line.format(tmp_path)
    assert not other.output.exists() and not second.output.exists() and same.output.exists()


def test_interrupted_runs_of_the_same_config_are_kept(tmp_path, capsys):
    same = run(tmp_path, "same", 0, finished=False)
    discard_stale([same], [same], tmp_path)
    assert same.output.exists() and capsys.readouterr().out == ""
