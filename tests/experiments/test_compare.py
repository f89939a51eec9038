import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from balanced_lvis.commands import compare as command
from balanced_lvis.commands.overrides import parse_with_overrides
from balanced_lvis.config import load_config
from balanced_lvis.experiments import compare as compare_module
from balanced_lvis.experiments.arguments import choose_methods
from balanced_lvis.experiments.compare import METHODS, QUICK, Experiment, best_and_reference, compare
from balanced_lvis.utils import job_lock as lock
from balanced_lvis.utils.errors import InputError
from tests.common import CONFIGS, ROOT, rendered_opts

RENDERED = f"{CONFIGS / 'rendered'}/"
TABLE_METRICS = {"AP", "APf", "APc", "APr", "AP_box", "AP_box_f", "AP_box_c", "AP_box_r"}


def tiny(root, **extra):
    """Overrides of the ``rendered`` fixture's data, without what each run sets itself."""
    opts = rendered_opts(root, "unused")
    pairs = {**dict(zip(opts[::2], opts[1::2])), **extra}
    return [word for key, value in pairs.items() if key != "OUTPUT_DIR" for word in (key, str(value))]


class Comparison:
    """Calls ``compare`` with fake_program.py on the ``rendered`` fixture's data."""

    def __init__(self, folder, data):
        self.program, self.output, self.data = folder / "fake" / "program.py", folder / "compare", data
        self.program.parent.mkdir()
        shutil.copy(Path(__file__).with_name("fake_program.py"), self.program)
        self.behave({})

    def behave(self, behaviour):
        (self.program.parent / "behaviour.json").write_text(json.dumps(behaviour))

    def __call__(self, methods, seeds=(0,), **overrides):
        """{run: its events} of this call."""
        log = self.program.parent / "log.txt"
        log.unlink(missing_ok=True)
        self.table = compare(self.experiment(methods, seeds, **overrides))
        return self.started()

    def experiment(self, methods, seeds, **overrides):
        return Experiment(methods, seeds, self.output, RENDERED, tiny(self.data, **overrides), self.program)

    def started(self):
        log = self.program.parent / "log.txt"
        words = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return {name: word for word, name, _ in words if word != "end"}

    def files(self):
        return {str(p.relative_to(self.output)) for p in self.output.glob("*/*")}


@pytest.fixture
def comparison(rendered, tmp_path):
    return Comparison(tmp_path, rendered)


def test_every_method_of_the_table_has_its_configs():
    for method in METHODS:
        for prefix in ("rendered/", "r50_", "r101_"):
            assert (CONFIGS / f"{prefix}{method}.yaml").is_file()


def test_first_stages_train_from_scratch_and_second_stages_name_theirs():
    for method in METHODS.values():
        weights = load_config(CONFIGS / "rendered" / f"{method.key}.yaml").MODEL.WEIGHTS
        assert weights == (f"output/rendered/{method.first_stage}/model_final.pth" if method.first_stage else "")


def test_a_second_stage_brings_its_first_one_along():
    assert choose_methods(["balms", "eql"], METHODS) == ["rfs", "eql", "balms"]
    assert choose_methods(list(METHODS), METHODS) == list(METHODS)


def test_unknown_methods_are_named_beside_the_valid_ones():
    with pytest.raises(InputError, match=r"--methods: 'rsf'; valid: sigmoid, rfs, crt, .*balms"):
        choose_methods(["rfs", "rsf"], METHODS)
    with pytest.raises(InputError, match="--methods: empty"):
        choose_methods([], METHODS)


def test_what_each_run_sets_itself_cannot_be_overridden(comparison):
    with pytest.raises(InputError, match="SEED differs between .* use --seeds"):
        comparison(["rfs"], SEED=3)
    with pytest.raises(InputError, match=r"--seeds: \[-1\]"):
        comparison(["rfs"], seeds=[-1])


def test_tables_and_plots_of_all_methods(comparison, capsys):
    started = comparison(METHODS, seeds=(0, 2))
    preparation = "seed_{}/collect-logits"
    assert started == {
        **{preparation.format(seed): "prepare" for seed in (0, 2)},
        **{
            f"{key}/seed_{seed}": "evaluate" if method.evaluates_only else "start"
            for key, method in METHODS.items()
            for seed in (0, 2)
        },
    }
    table = json.loads((comparison.output / "table.json").read_text())
    assert table == comparison.table and list(table) == list(METHODS)
    for metrics in table.values():
        assert set(metrics) == TABLE_METRICS
    # The fake's mask AP is 10 + seed², so 10 and 14: their mean 12, their deviations ±2, so (4 + 4) / (2 - 1) = 8.
    assert table["rfs"]["AP"] == {"mean": 12.0, "std": pytest.approx(8**0.5), "runs": [10.0, 14.0]}
    same = {"mean": 0.0, "std": 0.0, "runs": [0.0, 0.0], "ahead": 0}
    assert table["crt"]["AP"] == {**table["rfs"]["AP"], "difference": same}
    assert table["crt"]["AP_box"]["runs"] == [20.0, 24.0]
    assert table["rfs"]["APr"] == {"mean": None, "std": None, "runs": [None, None]}
    page = (comparison.output / "table.md").read_text()
    assert re.search(r"\| cRT \(stage 2 of RFS\) +\| 12\.0 ± 2\.8 \|", page)
    assert "on LVIS-1.0" in page and f"Made by `compare` with 2 seeds: {2 * len(METHODS) + 2} runs in " in page
    for name in ("ap_by_frequency", "ap_of_rare_categories"):
        assert min(Image.open(comparison.output / f"mask_{name}.png").size) > 400
        name = f"box_{name}"
        assert min(Image.open(comparison.output / f"{name}.png").size) > 400
    printed = capsys.readouterr().out
    assert page in printed
    assert (
        "Warning: no report.html is written: " in printed and "has no inference/lvis_instances_results.json" in printed
    )
    assert re.search(r"rfs seed 0: box AP 20\.0, APr –, mask AP 10\.0, APr –, \d+ s; runs left: \d+\n", printed)
    assert "; runs left: 0\n" in printed


def test_the_report_is_about_the_reference_and_the_best_method():
    table = {key: {"AP": {"mean": mean}} for key, mean in {"sigmoid": 3.0, "rfs": 9.0, "crt": 5.0, "lws": None}.items()}
    assert best_and_reference(table) == ["rfs", "crt"]
    del table["rfs"]
    assert best_and_reference(table) == ["sigmoid", "crt"]
    assert best_and_reference({"lws": table["lws"]}) == ["lws"]


def test_second_stages_start_from_the_first_stage_of_their_seed_after_it(comparison):
    comparison.behave({"rfs/seed_1": 0.5})  # the fake fails where the weights aren't there
    comparison(["crt"], seeds=(1, 0), **{"MODEL.WEIGHTS": ""})
    for seed in (0, 1):
        folder = comparison.output / "crt" / f"seed_{seed}"
        cfg = load_config(folder / "config.yaml")
        assert seed == cfg.SEED
        assert str(comparison.output / "rfs" / f"seed_{seed}" / "model_final.pth") == cfg.MODEL.WEIGHTS


def test_a_second_call_trains_nothing_and_a_missing_result_reruns_that_run_only(comparison):
    comparison(["rfs", "crt", "eql"], seeds=(0, 1))
    before = comparison.table
    assert comparison(["rfs", "crt", "eql"], seeds=(0, 1)) == {}
    assert comparison.table == before
    (comparison.output / "eql" / "seed_1" / "results.json").unlink()
    (comparison.output / "crt" / "seed_0" / "results.json").unlink()
    assert comparison(["rfs", "crt", "eql"], seeds=(0, 1)) == {"eql/seed_1": "resume", "crt/seed_0": "resume"}
    assert comparison(["rfs", "eql"], seeds=(1, 2)) == {"rfs/seed_2": "start", "eql/seed_2": "start"}


def test_models_are_evaluated_without_training_and_again_only_if_something_has_changed(comparison):
    methods = ["rfs", "rfs_logit_adjustment", "rfs_softmax_logit_adjustment"]
    first = comparison(methods)
    assert first == {
        "rfs/seed_0": "start", "rfs_softmax/seed_0": "start",
        "rfs_logit_adjustment/seed_0": "evaluate", "rfs_softmax_logit_adjustment/seed_0": "evaluate",
    }  # fmt: skip
    folder = comparison.output / "rfs_logit_adjustment" / "seed_0"
    cfg = load_config(folder / "evaluation" / "config.yaml")
    assert str(comparison.output / "rfs" / "seed_0" / "model_final.pth") == cfg.MODEL.WEIGHTS
    assert cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME == "logit_adjustment" and not (folder / "model_final.pth").exists()
    assert comparison(methods) == {}
    moved = comparison.output.parent / "moved"
    shutil.move(comparison.output, moved)
    comparison.output = moved
    assert comparison(methods) == {}
    (moved / "rfs_logit_adjustment" / "seed_0" / "evaluation" / "results.json").unlink()
    assert comparison(methods) == {"rfs_logit_adjustment/seed_0": "evaluate"}
    tau = {"MODEL.ROI_BOX_HEAD.CALIBRATION.LOGIT_ADJUSTMENT.TAU": 0.5}
    assert comparison(["rfs_logit_adjustment"], **tau) == {
        "rfs/seed_0": "start",
        "rfs_logit_adjustment/seed_0": "evaluate",
    }


def test_what_started_from_weights_that_were_replaced_runs_again(comparison):
    comparison(["crt", "rfs_logit_adjustment"])
    (comparison.output / "rfs" / "seed_0" / "model_final.pth").write_text("other weights")
    (comparison.output / "rfs" / "seed_0" / "results.json").touch()
    again = comparison(["crt", "rfs_logit_adjustment"])
    assert again == {"crt/seed_0": "start", "rfs_logit_adjustment/seed_0": "evaluate"}
    (comparison.output / "rfs" / "seed_0" / "model_final.pth").unlink()  # to save disk space
    assert comparison(["crt", "rfs_logit_adjustment"]) == {}


def test_a_preparation_is_made_once_per_model_and_again_for_other_weights(comparison):
    methods = ["rfs_softmax_logn"]
    started = comparison(methods)
    assert started == {
        "rfs_softmax/seed_0": "start", "seed_0/collect-logits": "prepare", "rfs_softmax_logn/seed_0": "evaluate",
    }  # fmt: skip
    assert list(started)[1] == "seed_0/collect-logits"
    weights = comparison.output / "rfs_softmax" / "seed_0" / "model_final.pth"
    assert weights.with_suffix(".logits.json").read_text() == weights.read_text()
    assert comparison(methods) == {}
    (comparison.output / "rfs_softmax_logn" / "seed_0" / "evaluation" / "results.json").unlink()
    assert comparison(methods) == {"rfs_softmax_logn/seed_0": "evaluate"}
    weights.write_text("other weights")
    (weights.parent / "results.json").touch()
    again = {"seed_0/collect-logits": "prepare", "rfs_softmax_logn/seed_0": "evaluate"}
    assert comparison(methods) == again
    assert weights.with_suffix(".logits.json").read_text() == "other weights"
    moved = comparison.output.parent / "moved"
    shutil.move(comparison.output, moved)
    comparison.output = moved
    assert comparison(methods) == {}
    (moved / "rfs_softmax" / "seed_0" / "model_final.logits.json").unlink()
    assert comparison(methods) == again


def test_what_the_calibration_of_ones_own_config_needs_is_prepared(comparison, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(f'_BASE_: "{RENDERED}rfs_softmax_logn.yaml"\n')
    started = comparison(["mine.yaml"])
    assert started == {
        "rfs_softmax/seed_0": "start", "seed_0/collect-logits": "prepare", "mine/seed_0": "evaluate",
    }  # fmt: skip
    statistics = 'MODEL:\n  ROI_BOX_HEAD:\n    CALIBRATION:\n      LOGN:\n        STATISTICS: "some.json"\n'
    Path("given.yaml").write_text(f'_BASE_: "{RENDERED}rfs_softmax_logn.yaml"\n{statistics}')
    assert comparison(["given.yaml"]) == {"given/seed_0": "evaluate"}


@pytest.mark.parametrize(
    ("base", "weights", "what"),
    [
        ("crt", "", "is a second stage"),
        ("crt", "output/other/model_final.pth", "is a second stage"),
        ("rfs_softmax_logn", "some/checkpoint.pth", "calibrates a checkpoint with 'logn'"),
    ],
)
def test_a_config_that_needs_an_unknown_model_is_an_error(comparison, tmp_path, monkeypatch, base, weights, what):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(f'_BASE_: "{RENDERED}{base}.yaml"\nMODEL:\n  WEIGHTS: "{weights}"\n')
    with pytest.raises(
        InputError, match=rf"mine.yaml {what}, but its MODEL.WEIGHTS '{weights}' is not the final model"
    ):
        comparison(["mine.yaml"])


def test_a_trained_model_may_be_evaluated_with_a_calibration(comparison, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(f'_BASE_: "{RENDERED}rfs_norcal.yaml"\nMODEL:\n  WEIGHTS: ""\n')
    assert comparison(["mine.yaml"]) == {"mine/seed_0": "start"}


def test_nothing_is_deleted_before_the_data_is_prepared(comparison, monkeypatch):
    comparison(["rfs"])
    (comparison.output / "rfs" / "seed_0" / "results.json").touch()

    def fail(cfg):
        raise InputError("no disk space")

    monkeypatch.setattr(compare_module, "prepare_rendered", fail)
    with pytest.raises(InputError, match="no disk space"):
        comparison(["rfs"], **{"SOLVER.MAX_ITER": 5})
    assert "rfs/seed_0" in comparison.files()


def test_the_estimated_time_is_printed_first_and_then_that_of_finished_runs(comparison, capsys):
    comparison(["rfs", "crt"])
    assert re.search(r"Estimated time with \d+ at a time: about 1 minute \(typical of", capsys.readouterr().out)
    for method in ("rfs", "crt"):
        (comparison.output / method / "seed_0" / "seconds.json").write_text('{"seconds": 6000}')
    comparison(["rfs", "crt"], seeds=(0, 1))
    # rfs takes 100 minutes, crt 100 minutes after it.
    assert "at a time: about 3.3 hours (by the finished runs)" in capsys.readouterr().out
    comparison(["rfs", "crt"], seeds=(0, 1))
    assert "Estimated" not in capsys.readouterr().out


def test_a_config_of_ones_own_is_compared_by_its_name(comparison, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = f'_BASE_: "{RENDERED}'
    Path("mine.yaml").write_text(f'{base}rfs.yaml"\nSOLVER:\n  BASE_LR: 0.001\n')
    weights = 'MODEL:\n  WEIGHTS: "output/rendered/rfs/model_final.pth"\n'
    Path("mine_later.yaml").write_text(f'{base}crt.yaml"\n{weights}')
    Path("mine_tested.yaml").write_text(f'{base}rfs.yaml"\n{weights}TEST:\n  DETECTIONS_PER_IMAGE: 50\n')
    methods = ["mine.yaml", "rfs", "mine_later.yaml", "mine_tested.yaml"]
    assert comparison(methods) == {
        "rfs/seed_0": "start", "mine/seed_0": "start", "mine_later/seed_0": "start", "mine_tested/seed_0": "evaluate",
    }  # fmt: skip
    assert list(comparison.table) == ["rfs", "mine", "mine_later", "mine_tested"]
    page = (comparison.output / "table.md").read_text()
    assert "| mine_later (stage 2 of RFS) " in page and "| mine_tested (on RFS) " in page
    assert comparison(methods) == {}
    assert comparison(["rfs"]) == {}
    Path("rfs.yaml").write_text(f'{base}rfs.yaml"\n')
    with pytest.raises(InputError, match="--methods: rfs.yaml has the name of another method, 'rfs'; rename"):
        comparison(["rfs.yaml"])
    with pytest.raises(InputError, match="missing.yaml"):
        comparison(["missing.yaml"])


def test_a_module_to_import_reaches_all_runs(monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr(command, "compare", lambda experiment: found.append(experiment.overrides))
    assert command.main(["--import", "my_method", "--methods", "rfs", "SEED", "3"]) == 0
    assert found == [["SEED", "3", "IMPORTS", "('my_method',)"]]


def test_other_overrides_start_anew(comparison):
    comparison(["eql"])
    assert comparison(["eql"], **{"SOLVER.MAX_ITER": 5}) == {"eql/seed_0": "start"}


def test_second_stages_of_a_first_stage_that_runs_again_are_discarded_even_if_not_asked_for(comparison):
    comparison(["crt", "decoupled_balanced_softmax", "eql"], seeds=(0, 1))
    (comparison.output / "rfs" / "seed_0" / "results.json").unlink()
    comparison(["rfs"], seeds=(0, 1))
    assert "crt/seed_0" not in comparison.files()
    assert {"crt/seed_1", "eql/seed_0", "decoupled_balanced_softmax/seed_0", "rfs/seed_1"} <= comparison.files()
    (comparison.output / "rfs" / "seed_1" / "results.json").unlink()
    again = comparison(["crt", "eql"], seeds=(0, 1))
    assert again == {"crt/seed_0": "start", "rfs/seed_1": "resume", "crt/seed_1": "start"}


def test_a_first_stage_without_weights_is_named(comparison):
    comparison(["rfs"])
    (comparison.output / "rfs" / "seed_0" / "model_final.pth").unlink()
    with pytest.raises(
        InputError, match=r"model_final.pth, from which crt seed 0 starts, doesn't exist; .*last_checkpoint"
    ):
        comparison(["crt"])


def start_in_background(comparison, methods):
    code = (
        "import sys; from pathlib import Path; from balanced_lvis.experiments.compare import Experiment, compare\n"
        "program, output, configs, methods, *opts = sys.argv[1:]\n"
        "compare(Experiment(methods.split(), [0], Path(output), configs, opts, Path(program), jobs=2))"
    )
    arguments = [comparison.program, comparison.output, RENDERED, " ".join(methods), *tiny(comparison.data)]
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.DEVNULL)


def wait_for(condition):
    end = time.monotonic() + 300  # start-up takes long on a busy machine
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_comparison_ends_its_runs_and_goes_on_where_it_was(comparison, number, monkeypatch):
    comparison.behave({"eql/seed_0": "hang"})
    process = start_in_background(comparison, ["rfs", "eql", "crt"])
    wait_for(lambda: (comparison.output / "crt" / "seed_0" / "results.json").exists())
    wait_for(lambda: (comparison.output / "eql" / "seed_0" / "checkpoint").exists())
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    with pytest.raises(InputError, match=rf"is in use by another job: process {process.pid} on host .*-c"):
        comparison(["rfs", "eql", "crt"])
    process.send_signal(number)
    process.wait(10)
    wait_for(lambda: not running(comparison.program))
    comparison.behave({})
    assert comparison(["rfs", "eql", "crt"]) == {"eql/seed_0": "resume"}


def running(script):
    """Process ids of the Pythons that run a script."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # has ended
            continue
        if len(words) > 1 and words[1] == os.fsencode(script):
            found.append(path.parent.name)
    return found


def test_overrides_may_follow_a_list_of_methods():
    args = parse_with_overrides(
        command._parser(), ["--seeds", "3", "--methods", "rfs", "crt", "SOLVER.MAX_ITER", "5", "SEED", "1"]
    )
    assert (args.methods, args.seeds, args.opts) == (["rfs", "crt"], [3], ["SOLVER.MAX_ITER", "5", "SEED", "1"])
    words = ["--methods", "rfs", "SEED", "4"]
    args = parse_with_overrides(command._parser(), words)
    assert (args.methods, args.opts) == (["rfs"], ["SEED", "4"])
    args = parse_with_overrides(command._parser(), ["--jobs", "1", "VERSION", "2"])
    assert (args.methods, args.seeds, args.opts) == (list(METHODS), None, ["VERSION", "2"])


def test_the_smoke_test_is_a_valid_config_of_every_method():
    for method in METHODS:
        assert load_config(f"{RENDERED}{method}.yaml", QUICK).SOLVER.MAX_ITER <= 50


@pytest.mark.slow
def test_end_to_end(rendered, tmp_path):
    """In new Pythons; tests/config/test_outside_method.py has two methods without a first stage."""
    methods = ["rfs", "crt"]
    command = [sys.executable, ROOT / "tools" / "compare.py", "--output", tmp_path / "out", "--seeds", "0"]
    command += ["--methods", *methods, *tiny(rendered)]
    found = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert list(table) == methods
    for method in methods:
        results = json.loads((tmp_path / "out" / method / "seed_0" / "results.json").read_text())
        found_ap = {key: table[method]["AP_box"][key] for key in ("mean", "std", "runs")}
        assert found_ap == {"mean": results["bbox"]["AP"], "std": None, "runs": [results["bbox"]["AP"]]}
    page = (tmp_path / "out" / "table.md").read_text()
    assert page in found.stdout and f"--methods {' '.join(methods)} " in page
