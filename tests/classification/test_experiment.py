"""The experiment: its table, figure and command, with runs of seconds."""

import json
from pathlib import Path

import numpy as np
import pytest

from balanced_lvis.classification import experiment
from balanced_lvis.classification.experiment import IMBALANCES, QUICK, run_experiment
from balanced_lvis.classification.report import (
    balanced_test,
    marginal_figure,
    mean_marginal,
    results_page,
    statistics_table,
)
from balanced_lvis.classification.runs import ClassifierRun
from balanced_lvis.commands import classification as command
from balanced_lvis.config_files.names import config_folder
from balanced_lvis.experiments import run_processes
from balanced_lvis.experiments.plots import plt
from balanced_lvis.experiments.time_estimate import note_seconds, time_line
from balanced_lvis.utils.errors import InputError
from tests.classification.made import characters_opts, write_folders
from tests.common import CONFIGS
from tests.programs import forked_runs

CHARACTERS = f"{config_folder() / 'classification' / 'characters'}/"


def result(accuracy, few, marginal=(0.5, 0.3, 0.2)):
    return {
        "accuracy": accuracy, "balanced_accuracy": accuracy, "many": 90.0, "medium": None, "few": few,
        "marginal": list(marginal), "train_counts": [30, 20, 10], "test_counts": [5, 5, 5],
    }  # fmt: skip


RESULTS = {
    100: {"softmax": [result(60.0, 10.0), result(70.0, 20.0)], "balanced_softmax": [result(80.0, 50.0)]},
    10: {"softmax": [result(90.0, None)]},
}


def test_the_table_has_means_deviations_and_groups():
    table = statistics_table(RESULTS)
    softmax = table["100"]["softmax"]
    assert softmax == {
        "mean": 65.0, "std": pytest.approx(50**0.5), "runs": [60.0, 70.0], "many": 90.0, "medium": None, "few": 15.0,
    }  # fmt: skip
    assert table["100"]["balanced_softmax"]["std"] is None and table["10"]["softmax"]["few"] is None


def test_the_page_has_the_papers_shape_and_figures():
    page = results_page(statistics_table(RESULTS), "Title", "Made by \udcff.")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if "|" in line]
    rows = {first: rest for first, *rest in cells}
    assert page.startswith("# Title\n") and page.endswith("Made by \\udcff.\n")
    assert "| Softmax          | 65.0 ± 7.1 | 90.0 |" in page
    assert "| Balanced Softmax |       80.0 |    – |" in page
    assert "| Balanced Softmax |       80.0 | 90.0 |      – | 50.0 |" in page
    assert rows["LDAM"] == ["41.0", "45.4", "62.0"]  # of the last table, CIFAR-100-LT
    assert "Top-1 accuracy on the balanced test set in percent" in page


def test_of_an_unbalanced_test_set_the_table_has_the_balanced_accuracy():
    run = {**result(60.0, 10.0), "balanced_accuracy": 40.0, "test_counts": [20, 2, 2]}
    assert not balanced_test([result(60.0, 10.0), run])
    page = results_page(statistics_table({0: {"softmax": [run]}}), "Title", "Made by.", balanced=False)
    assert "| Softmax          |       40.0 |" in page and "balanced test set" not in page.replace("unbalanced", "")
    assert "Balanced accuracy (the mean of the classes' top-1 accuracies)" in page


def test_the_marginal_is_a_mean_sorted_by_training_frequency():
    runs = [
        {"marginal": [0.1, 0.6, 0.3], "train_counts": [5, 50, 20]},
        {"marginal": [0.3, 0.4, 0.3], "train_counts": [5, 50, 20]},
    ]
    assert np.allclose(mean_marginal(runs), [0.5, 0.3, 0.2])


def test_the_figure_has_a_panel_per_imbalance_factor_and_a_line_per_method(tmp_path, monkeypatch):
    runs = {method: [result(60.0, 10.0, (0.5, 0.3, 0.2))] for method in ("softmax", "ldam", "eql", "balanced_softmax")}
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    marginal_figure({200: runs, 100: runs, 0: runs}, tmp_path / "figure.png")
    (figure,) = figures
    assert [axis.get_title() for axis in figure.axes] == ["imbalance factor 200", "imbalance factor 100", "all images"]
    for axis in figure.axes:
        *curves, uniform = axis.get_lines()
        assert [line.get_label() for line in curves] == ["Softmax", "Equalization Loss", "Balanced Softmax"]
        for line in curves:
            assert line.get_xydata().tolist() == [[1, 0.5], [2, 0.3], [3, 0.2]]
        assert set(uniform.get_ydata()) == {1 / 3} and uniform.get_label() == "uniform"
        assert axis.get_xlabel() == "class, by training frequency"
    assert figure.axes[0].get_ylabel() == "marginal p(y) on the test set"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][-1] == "uniform" and len(legend.get_texts()) == 4
    assert (tmp_path / "figure.png").stat().st_size > 0


def opts(tmp_path, **overrides):
    words = characters_opts(tmp_path / "cache", "unused", **{"SOLVER__MAX_ITER": 2, **overrides})
    at = words.index("OUTPUT_DIR")
    words = words[:at] + words[at + 2 :]
    at = words.index("DATASET.LONG_TAIL.IMBALANCE")
    return words[:at] + words[at + 2 :]


def test_a_shorter_schedule_keeps_the_share_at_which_reweighting_starts(tmp_path):
    def starts(overrides):
        runs = experiment._runs(["ldam", "ldam_drw"], [10], [0], tmp_path, CHARACTERS, overrides)
        return [run.config().MODEL.ACTIVATION.LDAM.DRW_START for run in runs.values()]

    assert starts(()) == [-1, 800] and starts(QUICK) == [-1, 16]
    key = "MODEL.ACTIVATION.LDAM.DRW_START"
    assert starts(("SOLVER.MAX_ITER", "9", key, "3")) == [3, 3]
    with pytest.raises(InputError, match=f"{key} is 9, but SOLVER.MAX_ITER is 9"):
        run_experiment(["ldam"], [10], [0], tmp_path, CHARACTERS, opts(tmp_path, SOLVER__MAX_ITER=9, **{key: 9}))


@forked_runs()
def test_runs_are_kept_and_repeated_only_if_something_has_changed(tmp_path, capsys):
    words = ["--output", str(tmp_path / "out"), "--methods", "logit_adjustment", "--imbalance", "5", "--seeds", "0"]
    assert command.main([*words, *opts(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "2 runs to train and evaluate, 0 already finished" in shown
    assert "softmax, imbalance 5, seed 0: accuracy" in shown
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert list(table) == ["5"] and list(table["5"]) == ["softmax", "logit_adjustment"]
    assert set(table["5"]["softmax"]) == {"mean", "std", "runs", "many", "medium", "few"}
    assert (tmp_path / "out" / "marginal.png").exists() and (tmp_path / "out" / "table.md").exists()

    assert command.main([*words, *opts(tmp_path)]) == 0
    assert "0 runs to train and evaluate, 2 already finished" in capsys.readouterr().out
    # The results of an earlier version.
    results = tmp_path / "out" / "imbalance_5" / "logit_adjustment" / "seed_0" / "evaluation" / "results.json"
    content = json.loads(results.read_text())
    del content["balanced_accuracy"], content["test_counts"]
    results.write_text(json.dumps(content))
    assert command.main([*words, *opts(tmp_path)]) == 0
    assert "0 runs to train and evaluate, 2 already finished" in capsys.readouterr().out
    again = json.loads((tmp_path / "out" / "table.json").read_text())
    assert again == table


def finish(run):
    """The files by which a run is recognised as finished, without training it."""
    run.output.mkdir(parents=True)
    cfg = run.config().clone()
    cfg.OUTPUT_DIR = str(run.output)
    (run.output / "config.yaml").write_text(cfg.dump())
    (run.output / "last_checkpoint").write_text("model_final.pth")
    (run.output / "results.json").write_text('{"balanced_accuracy": 50.0}')
    assert run.finished(run.config())


def test_an_interrupted_run_of_another_config_is_discarded_and_its_second_stage_too(tmp_path, monkeypatch, capsys):
    """Only what is to be trained is checked, as training takes seconds."""
    started = []
    shares = []

    def train_all(runs, *rest, num_runs):
        started.append([run.key for run in runs])
        shares.append(num_runs)

    monkeypatch.setattr(run_processes, "train_all", train_all)
    monkeypatch.setattr(experiment, "_write", lambda *arguments: {})
    arguments = (["logit_adjustment", "balms"], [5], [0], tmp_path, CHARACTERS)
    run_experiment(*arguments, opts(tmp_path))
    assert started.pop() == ["5/softmax/0", "5/balms/0", "5/logit_adjustment/0"]
    other = tmp_path / "imbalance_5" / "softmax" / "seed_0"
    other.mkdir(parents=True)
    cfg = ClassifierRun("", "", CHARACTERS + "softmax.yaml", other, tuple(opts(tmp_path))).config()
    cfg.SOLVER.BASE_LR = 7.0
    (other / "config.yaml").write_text(cfg.dump())
    capsys.readouterr()
    runs = experiment._runs(["softmax", "balms"], [5], [0], tmp_path, CHARACTERS, tuple(opts(tmp_path)))
    second_stage = runs[5, "balms", 0]
    finish(second_stage)
    run_experiment(*arguments, opts(tmp_path))
    assert started == [["5/softmax/0", "5/balms/0", "5/logit_adjustment/0"]]
    assert not other.exists() and not second_stage.output.exists()
    assert "1 finished run of another config" in capsys.readouterr().out  # the first stage had no results
    assert shares == [3, 3]


def test_finished_runs_of_another_config_are_counted_before_they_are_deleted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_processes, "train_all", lambda *arguments, **named: None)
    monkeypatch.setattr(experiment, "_write", lambda *arguments: {})
    words = (*opts(tmp_path), "SOLVER.BASE_LR", "7.0")
    for method in ("softmax", "focal"):
        folder = tmp_path / "imbalance_5" / method / "seed_0"
        folder.mkdir(parents=True)
        cfg = ClassifierRun("", "", f"{CHARACTERS}{method}.yaml", folder, words).config()
        (folder / "config.yaml").write_text(cfg.dump())
        (folder / "results.json").write_text("{}")
        (folder / "last_checkpoint").write_text("model_final.pth")
    evaluation = tmp_path / "imbalance_5" / "logit_adjustment" / "seed_0" / "evaluation"
    evaluation.mkdir(parents=True)
    (evaluation / "results.json").write_text("{}")
    with pytest.raises(InputError, match="needs images of every class"):  # nothing is deleted for invalid arguments
        run_experiment(["balms"], [5000], [0], tmp_path, CHARACTERS, opts(tmp_path))
    run_experiment(["focal", "logit_adjustment"], [5], [0], tmp_path, CHARACTERS, opts(tmp_path))
    shown = capsys.readouterr().out
    line = (
        f"3 finished runs of another config in {tmp_path} are deleted, the first of them: softmax, imbalance 5, seed 0"
    )
    assert line in shown and shown.index(line) < shown.index("3 runs to train and evaluate")
    assert not folder.exists() and not evaluation.exists()


def test_the_time_is_estimated_once_a_run_has_finished(tmp_path):
    runs = [ClassifierRun(f"{i}", "", Path(CHARACTERS + "softmax.yaml"), tmp_path / f"{i}") for i in (0, 1)]
    assert time_line(runs, runs, 1) == ""
    note_seconds(runs[0], 600.0)
    assert time_line(runs[1:], runs, 1) == "Estimated time with 1 at a time: about 10 minutes (by the finished runs)"


@pytest.fixture
def passed(monkeypatch):
    """The arguments with which the command calls the experiment."""
    found = []
    monkeypatch.setattr(command, "run_experiment", lambda *arguments: found.append(arguments))
    return found


@pytest.mark.parametrize(
    ("words", "output"),
    [
        ([], "output/classification"),
        (["--quick"], "output/classification_quick"),
        (["--dataset", "cifar10"], "output/classification_cifar10"),
        (["--dataset", "cifar10", "--quick"], "output/classification_cifar10_quick"),
        (["--dataset", "cifar10", "--output", "mine"], "mine"),
    ],
)
def test_each_dataset_has_its_own_folder(words, output, passed):
    assert command.main(words) == 0
    assert passed[0][3] == Path(output)


DATASETS = sorted(path.name for path in (CONFIGS / "classification").iterdir() if path.name != "base")


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_dataset_trains_the_methods_that_it_has_configs_of(dataset, passed):
    assert command.main(["--dataset", dataset]) == 0
    methods, imbalances, _, _, configs, *_ = passed[0]
    assert {f"{method}.yaml" for method in methods} == {path.name for path in Path(configs).iterdir()}
    expected = {"folder": (0,), "cifar10_200_epochs": (100,), "cifar100_200_epochs": (100,)}
    assert imbalances == expected.get(dataset, IMBALANCES)


def test_a_method_without_a_config_and_a_module_to_import(passed, capsys):
    assert command.main(["--dataset", "folder", "--methods", "balms"]) == 2
    assert "'balms'; --dataset folder has configs of softmax, balanced_softmax" in capsys.readouterr().err
    assert command.main(["--import", "outside_loss", "--seeds", "0", "SOLVER.MAX_ITER", "3"]) == 0
    assert passed[0][5] == ["SOLVER.MAX_ITER", "3", "IMPORTS", "('outside_loss',)"]


def test_the_experiment_trains_on_folders_with_all_images(tmp_path):
    write_folders(tmp_path / "images", {"cat": 5, "dog": 3})
    words = ["--dataset", "folder", "--seeds", "0", "--output", str(tmp_path / "out"), "--methods", "softmax"]
    options = ["DATASET.FOLDER.ROOT", str(tmp_path / "images"), "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "4"]
    assert command.main([*words, *options, "MODEL.NETWORK.NAME", "resnet8", "MODEL.DEVICE", "cpu"]) == 0
    assert (tmp_path / "out" / "imbalance_0" / "softmax" / "seed_0" / "results.json").exists()
    page = (tmp_path / "out" / "table.md").read_text()
    assert "## All images" in page and "| Imbalance factor | all images |" in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ["softmx"]}, "--methods: 'softmx'; valid: softmax"),
        ({"imbalances": [-1]}, r"--imbalance: \[-1\]; give one or more whole numbers"),
        ({"seeds": [-1]}, "--seeds"),
        ({"overrides": ["SEED", "3"]}, "SEED differs between the runs of an experiment; use --seeds instead"),
        ({"overrides": ["SOLVER.MAX_ITERS", "3"]}, "Did you mean SOLVER.MAX_ITER"),
    ],
)
def test_wrong_arguments_are_errors_before_anything_is_trained(change, message, tmp_path):
    arguments = {
        "methods": ["softmax"], "imbalances": [10], "seeds": [0], "output": tmp_path, "configs": CHARACTERS, **change,
    }  # fmt: skip
    with pytest.raises(InputError, match=message):
        run_experiment(**arguments)


@forked_runs()
def test_a_run_that_fails_ends_the_experiment_with_its_output(tmp_path, capsys):
    words = ["--output", str(tmp_path / "out"), "--methods", "softmax", "--imbalance", "10", "--seeds", "0"]
    assert command.main([*words, *opts(tmp_path), "SOLVER.BASE_LR", "1e25", "SOLVER.LOG_PERIOD", "1"]) == 2
    shown = capsys.readouterr().err
    assert "Training softmax, imbalance 10, seed 0 failed with status 3" in shown and "training diverged" in shown
