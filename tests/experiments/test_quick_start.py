import contextlib
import dataclasses
import io
import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image

from balanced_lvis.commands import quickstart as command
from balanced_lvis.config import load_config
from balanced_lvis.experiments import run_processes
from balanced_lvis.experiments.quick_start import Candidate, quick_start
from balanced_lvis.experiments.runs import discard_stale
from balanced_lvis.experiments.small_rendered import override_words
from balanced_lvis.utils.errors import InputError
from tests.common import CONFIGS, rendered_opts
from tests.programs import forked_runs


def candidates():
    configs = CONFIGS / "quick_start"
    return [
        Candidate("baseline", "Sigmoid", configs / "sigmoid.yaml"),
        Candidate("balanced_sigmoid", "Balanced Sigmoid", configs / "balanced_sigmoid.yaml"),
    ]


def overrides(root, **extra):
    opts = rendered_opts(root, "unused")
    at = opts.index("OUTPUT_DIR")
    return [*opts[:at], *opts[at + 2 :], *override_words(extra)]


@pytest.fixture(scope="module")
def finished(rendered, tmp_path_factory):
    """A finished quick start: its folder, its summary and what it has printed."""
    output = tmp_path_factory.mktemp("quick_start") / "output"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), forked_runs():
        summary = quick_start(candidates(), [0, 3], None, output, overrides(rendered))
    return output, summary, printed.getvalue()


def test_the_summary_has_mean_and_deviation_over_the_seeds(finished):
    output, summary, _ = finished
    assert json.loads((output / "summary.json").read_text()) == summary
    assert set(summary) == {"baseline", "balanced_sigmoid", "seeds", "seconds"} and summary["seeds"] == [0, 3]
    for key in ("baseline", "balanced_sigmoid"):
        results = [json.loads((output / key / f"seed_{seed}" / "results.json").read_text()) for seed in (0, 3)]
        assert set(summary[key]) == {"bbox", "segm"}
        for task, metrics in summary[key].items():
            for metric, found in metrics.items():
                runs = [run[task][metric] for run in results]
                known = [value for value in runs if value is not None and not math.isnan(value)]
                assert found["mean"] == (pytest.approx(np.mean(known)) if known else None)
                assert found["std"] == (pytest.approx(np.std(known, ddof=1)) if len(known) == 2 else None)


def test_it_prints_the_table_that_it_writes(finished):
    output, _, printed = finished
    table = (output / "table.md").read_text()
    assert table in printed and "Balanced Sigmoid seed 3: box AP" in printed
    rows = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert rows == ["Sigmoid", "Balanced Sigmoid", "difference", "seeds ahead"]


def test_it_draws_plots_and_predictions(finished):
    output, _, _ = finished
    for name in ("box_ap_by_training_images", "mask_ap_by_training_images", "predictions_1"):
        assert min(Image.open(output / f"{name}.png").size) > 200


def test_it_writes_a_report_of_the_first_seed_and_prints_its_path(finished):
    output, _, printed = finished
    assert f"Report of Sigmoid and Balanced Sigmoid: {output / 'report.html'}\n" in printed
    text = (output / "report.html").read_text()
    assert "<title>Sigmoid and Balanced Sigmoid, seed 0</title>" in text
    assert "<dt>Balanced Sigmoid</dt>" in text and "balanced_sigmoid/seed_0/inference" in text
    assert "data:image/webp" in text and "seed_3" not in text


def test_runs_of_another_config_are_deleted_and_moved_ones_are_kept(finished, rendered):
    output, _, _ = finished
    run = candidates()[0].run(output, 0, tuple(overrides(rendered)))
    discard_stale([run], [run], output)
    assert run.output.exists()
    kept = output / "kept"
    shutil.copytree(run.output, kept)
    other = dataclasses.replace(candidates()[0].run(output, 5, tuple(overrides(rendered))), output=run.output)
    discard_stale([other], [other], output)
    assert not run.output.exists()
    kept.rename(run.output)


@pytest.fixture
def trained(monkeypatch):
    """Keys of the runs that would be trained, which nothing trains."""
    found = []
    monkeypatch.setattr(run_processes, "train_all", lambda runs, *a, **k: found.extend(run.key for run in runs))
    return found


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished quick start, to be changed."""
    return shutil.copytree(finished[0], tmp_path / "output")


def test_each_run_has_its_seed_and_config(finished):
    output, _, _ = finished
    for seed in (0, 3):
        cfg = load_config(output / "balanced_sigmoid" / f"seed_{seed}" / "config.yaml")
        assert (seed, "balanced_sigmoid") == (cfg.SEED, cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME)


def test_an_interrupted_quick_start_keeps_its_finished_runs(finished, copied, rendered, trained):
    (copied / "summary.json").unlink()  # as if it had been interrupted before the end
    results = copied / "baseline" / "seed_3" / "results.json"
    results.rename(copied / "results.json")
    with pytest.raises(FileNotFoundError):
        quick_start(candidates(), [0, 3], None, copied, overrides(rendered))
    assert trained == ["baseline/seed_3"]
    (copied / "results.json").rename(results)
    again = quick_start(candidates(), [0, 3], None, copied, overrides(rendered))
    assert {**again, "seconds": 0} == {**finished[1], "seconds": 0} and trained == ["baseline/seed_3"]


def test_an_interrupted_quick_start_trains_other_seeds_and_configs(copied, rendered, trained):
    (copied / "summary.json").unlink()
    with pytest.raises(FileNotFoundError):
        quick_start(candidates(), [0, 4], None, copied, overrides(rendered))
    assert trained == ["baseline/seed_4", "balanced_sigmoid/seed_4"]
    with pytest.raises(FileNotFoundError):
        quick_start(candidates(), [0], None, copied, overrides(rendered, **{"SOLVER.BASE_LR": 0.1}))
    assert trained[2:] == ["baseline/seed_0", "balanced_sigmoid/seed_0"]


def test_a_finished_quick_start_starts_from_the_beginning(copied, rendered, trained):
    with pytest.raises(FileNotFoundError):
        quick_start(candidates(), [0, 3], None, copied, overrides(rendered))
    assert trained == ["baseline/seed_0", "balanced_sigmoid/seed_0", "baseline/seed_3", "balanced_sigmoid/seed_3"]
    assert not (copied / "summary.json").exists() and not (copied / "table.md").exists()


@pytest.mark.parametrize(
    "seeds, words, message",
    [
        ([0, 3], ["SOLVER.MAX_ITERS", "5"], "SOLVER.MAX_ITERS"),
        ([], [], "--seeds"),
        ([0, -1], [], "--seeds"),
        ([0], ["SEED", "1"], "use --seeds instead"),
    ],
)
def test_nothing_is_deleted_for_invalid_arguments(copied, rendered, seeds, words, message):
    with pytest.raises(InputError, match=message):
        quick_start(candidates(), seeds, None, copied, [*overrides(rendered), *words])
    assert (copied / "summary.json").exists() and (copied / "baseline" / "seed_0" / "model_final.pth").exists()


def test_a_run_that_fails_ends_the_quick_start(rendered, tmp_path):
    with pytest.raises(InputError, match=r"Training .* failed with status 2:(?s:.*)error: "), forked_runs():
        quick_start(candidates(), [0], None, tmp_path, overrides(rendered, **{"DATASETS.TEST": "('nowhere',)"}))


def test_the_command_takes_seeds_and_overrides(monkeypatch):
    called = []
    monkeypatch.setattr(command, "quick_start", lambda *arguments: called.append(arguments))
    command.main(["--seeds", "2", "1", "SOLVER.MAX_ITER", "7"])
    command.main(["--forms", "--output", "elsewhere"])
    (found, seeds, _, output, options), (forms, *_, other, _) = called
    assert [c.key for c in found] == ["baseline", "balanced_sigmoid"]
    assert seeds == [2, 1] and str(output) == "output/quick_start" and options == ["SOLVER.MAX_ITER", "7"]
    activations = [c.run(other, 0, ()).config().MODEL.ROI_BOX_HEAD.ACTIVATION for c in forms]
    assert [a.NAME for a in activations] == ["sigmoid", "balanced_sigmoid", "balanced_sigmoid"]
    assert [a.BALANCED_SIGMOID.FORM for a in activations[1:]] == ["foreground", "centred"]


@pytest.mark.parametrize("words, message", [(["--seeds", "-1"], "--seeds"), (["SEED", "1"], "use --seeds instead")])
def test_the_command_refuses_wrong_seeds(words, message, capsys):
    assert command.main(words) == 2
    assert message in capsys.readouterr().err
