import contextlib
import io
import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image

from balanced_lvis.commands import quickstart as command
from balanced_lvis.experiments import quick_start as quick_start_module
from balanced_lvis.experiments.quick_start import Candidate, quick_start
from balanced_lvis.experiments.smoke_test import override_words
from balanced_lvis.utils.errors import InputError
from tests.common import CONFIGS, ROOT, rendered_opts

TRAIN_NET = ROOT / "tools" / "train_net.py"


def candidates():
    configs = CONFIGS / "quick_start"
    return [
        Candidate("baseline", "sigmoid", configs / "sigmoid.yaml"),
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
    with contextlib.redirect_stdout(printed):
        summary = quick_start(candidates(), [0, 3], TRAIN_NET, output, overrides(rendered))
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
    assert rows == ["sigmoid", "Balanced Sigmoid", "difference", "seeds ahead"]


def test_it_draws_plots_and_predictions(finished):
    output, _, _ = finished
    for name in ("box_ap_by_training_images", "mask_ap_by_training_images", "predictions_1"):
        assert min(Image.open(output / f"{name}.png").size) > 200


def test_runs_of_another_config_are_deleted_and_moved_ones_are_kept(finished, rendered):
    output, _, _ = finished
    run = candidates()[0].run(output, 0, tuple(overrides(rendered)))
    run.discard_other(run.config())
    assert run.output.exists()
    kept = output / "kept"
    shutil.copytree(run.output, kept)
    run.discard_other(candidates()[0].run(output, 5, tuple(overrides(rendered))).config())
    assert not run.output.exists()
    kept.rename(run.output)


def test_an_interrupted_quick_start_keeps_its_finished_runs(finished, rendered, monkeypatch):
    output, summary, _ = finished
    trained = []
    monkeypatch.setattr(quick_start_module, "train_all", lambda runs, *a, **k: trained.extend(run.key for run in runs))
    hidden = output / "summary.json"
    hidden.rename(output / "hidden.json")  # as if it had been interrupted before the end
    (output / "baseline" / "seed_3" / "results.json").rename(output / "results.json")
    with pytest.raises(FileNotFoundError):
        quick_start(candidates(), [0, 3], TRAIN_NET, output, overrides(rendered))
    assert trained == ["baseline/seed_3"]
    (output / "results.json").rename(output / "baseline" / "seed_3" / "results.json")
    again = quick_start(candidates(), [0, 3], TRAIN_NET, output, overrides(rendered))
    assert {**again, "seconds": 0} == {**summary, "seconds": 0}


def test_a_finished_quick_start_starts_from_the_beginning(finished, rendered):
    output, _, _ = finished
    stale = output / "baseline" / "seed_0" / "stale"
    stale.touch()
    with pytest.raises(InputError, match=r"Training .* failed with status 2:(?s:.*)error: "):
        quick_start(candidates(), [0], TRAIN_NET, output, overrides(rendered, **{"DATASETS.TEST": "('nowhere',)"}))
    assert not stale.exists()


def test_the_command_takes_seeds_and_overrides(monkeypatch):
    called = []
    monkeypatch.setattr(command, "quick_start", lambda *arguments: called.append(arguments))
    command.main(["--seeds", "2", "1", "2", "SOLVER.MAX_ITER", "7"])
    ((found, seeds, _, output, options),) = called
    assert [c.key for c in found] == ["baseline", "balanced_sigmoid"]
    assert seeds == [2, 1] and str(output) == "output/quick_start" and options == ["SOLVER.MAX_ITER", "7"]


@pytest.mark.parametrize("words, message", [(["--seeds", "-1"], "--seeds"), (["SEED", "1"], "use --seeds instead")])
def test_the_command_refuses_wrong_seeds(words, message, capsys):
    assert command.main(words) == 2
    assert message in capsys.readouterr().err
