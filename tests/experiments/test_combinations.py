"""Combinations of methods: which there are, which runs they share, how they are ranked and what the page says."""

import json
from pathlib import Path

import pytest

from balanced_lvis.calibration import calibration_names
from balanced_lvis.calibration.base import misfit
from balanced_lvis.commands import compare as command
from balanced_lvis.config import load_config
from balanced_lvis.experiments import combination_search
from balanced_lvis.experiments.combination_report import combinations_page, compared_with_all
from balanced_lvis.experiments.combination_search import search_combinations, search_split
from balanced_lvis.experiments.combinations import SAMPLERS, Combination, Combinations
from balanced_lvis.experiments.compare import QUICK
from balanced_lvis.experiments.comparison_report import statistics_table
from balanced_lvis.experiments.comparison_runs import comparison_runs
from balanced_lvis.experiments.methods import METHODS, SECOND_STAGE
from balanced_lvis.experiments.runs import EvaluationRun, with_first_stages
from balanced_lvis.utils.errors import InputError
from tests.common import CONFIGS
from tests.experiments.test_compare import Comparison, tiny

KEYS = ("rfs", "crt", "decoupled_balanced_sigmoid", "rfs_softmax", "decoupled_balanced_softmax", "rfs_logit_adjustment")
FILES = {key: CONFIGS / "rendered" / f"{key}.yaml" for key in METHODS}


def parts(output=Path("out"), keys=KEYS, overrides=(), split=()):
    return Combinations({key: METHODS[key] for key in keys}, FILES, output, overrides, 0, split)


def keys_of(combinations):
    return [combination.key for combination in combinations]


def test_every_part_is_combined_with_every_part_that_fits():
    found = parts()
    assert keys_of(found.trained()) == ["rfs", "rfs_softmax"]
    assert keys_of(found.with_samplers(found.trained())) == [
        f"{key}+{sampler}" for key in ("rfs", "rfs_softmax") for sampler in SAMPLERS if sampler != "repeat_factor"
    ]
    # cRT trains a new classifier, the others keep that of the first stage.
    assert keys_of(found.with_second_stages(found.trained())) == [
        "rfs+crt", "rfs+decoupled_balanced_sigmoid", "rfs_softmax+crt", "rfs_softmax+decoupled_balanced_softmax",
    ]  # fmt: skip
    softmax_crt = Combination("rfs_softmax", second_stage="crt")  # whose classifier has sigmoids
    assert keys_of(found.with_calibrations([*found.trained(), softmax_crt])) == [
        "rfs+rfs_logit_adjustment", "rfs_softmax+rfs_logit_adjustment", "rfs_softmax+crt+rfs_logit_adjustment",
    ]  # fmt: skip


def test_what_equals_a_method_or_an_earlier_combination_is_not_tried():
    keys = ("sigmoid", "rfs", "irfs", "copy_paste", "balanced_sigmoid_sampled")
    found = parts(keys=keys)
    assert keys_of(found.with_samplers(found.trained())) == [
        "sigmoid+class_aware", "sigmoid+copy_paste", "irfs+copy_paste", "copy_paste+class_aware",
        *(f"balanced_sigmoid_sampled+{sampler}" for sampler in ("every_image_once", "instance_aware", "class_aware")),
    ]  # fmt: skip
    without = parts(keys=("rfs",))
    assert keys_of(without.with_samplers(without.trained()))[:2] == ["rfs+every_image_once", "rfs+instance_aware"]


def test_samplers_have_the_values_of_the_configs_that_they_are_from():
    found = parts(keys=("sigmoid", "balanced_sigmoid"))
    cfg = found.model_run(Combination("sigmoid", "instance_aware"), 0).config()
    assert (cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD) == (
        "InstanceAwareRepeatFactorTrainingSampler", 0.0625,
    )  # fmt: skip
    cfg = found.model_run(Combination("balanced_sigmoid", "copy_paste"), 0).config()
    assert cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler"
    assert cfg.INPUT.COPY_PASTE == load_config(FILES["copy_paste"]).INPUT.COPY_PASTE and cfg.INPUT.COPY_PASTE.ENABLED
    files = {**FILES, "copy_paste": Path("nowhere.yaml")}
    without = Combinations({"rfs": METHODS["rfs"]}, files, Path("out"))
    assert without.unknown_samplers() == ["copy_paste"]
    assert "rfs+copy_paste" not in keys_of(without.with_samplers(without.trained()))


def test_a_second_stage_continues_only_where_the_frozen_parts_are_its_own():
    found = parts(keys=("rfs", "seesaw", "seesaw_linear_mask", "federated_detectron2", "crt", "decoupled_sigmoid"))
    assert keys_of(found.with_second_stages(found.trained())) == [
        "rfs+crt", "rfs+decoupled_sigmoid", "seesaw_linear_mask+crt",
    ]  # fmt: skip
    everything = parts(keys=tuple(METHODS))
    methods = [key for key in METHODS if METHODS[key].group == SECOND_STAGE]
    fitting = everything.with_second_stages(everything.trained())
    assert [everything.method(c) for c in fitting if everything.method(c)] == sorted(
        methods, key=lambda key: (list(METHODS).index(METHODS[key].first_stage), methods.index(key))
    )


def test_each_calibration_is_tried_once_and_where_it_fits_whatever_the_family():
    found = parts(keys=tuple(METHODS))
    for key in ("gol", "ecm", "seesaw", "sigmoid_background", "eqlv2", "rfs", "rfs_softmax"):
        tried = [c.calibration for c in found.with_calibrations([Combination(key)])]
        names = [load_config(FILES[one]).MODEL.ROI_BOX_HEAD.CALIBRATION.NAME for one in tried]
        activation = load_config(FILES[key]).MODEL.ROI_BOX_HEAD.ACTIVATION.NAME
        assert len(set(names)) == len(names)
        assert set(names) == {name for name in calibration_names() if not misfit(name, activation)}
    # Where a method of the comparison has the calibration, it is that method.
    assert [found.method(c) for c in found.with_calibrations([Combination("rfs_softmax")])] == [
        "rfs_softmax_logit_adjustment", "rfs_softmax_norcal", "rfs_softmax_fracal", "rfs_softmax_iif",
        "rfs_softmax_logn",
    ]  # fmt: skip


def test_combinations_that_are_methods_are_the_runs_of_the_comparison():
    found = parts()
    runs = comparison_runs({key: METHODS[key] for key in KEYS}, FILES, [0, 1], Path("out"), ())
    for combination, method in {
        Combination("rfs"): "rfs",
        Combination("rfs", second_stage="crt"): "crt",
        Combination("rfs", calibration="rfs_logit_adjustment"): "rfs_logit_adjustment",
    }.items():
        assert found.method(combination) == method
        assert found.run(combination, 1) == runs[method, 1]
        assert with_first_stages([found.run(combination, 1)]) == with_first_stages([runs[method, 1]])
    for combination in (
        Combination("rfs", "class_aware"),
        Combination("rfs_softmax", second_stage="crt"),
        Combination("rfs", second_stage="crt", calibration="rfs_logit_adjustment"),
    ):
        assert found.method(combination) is None
        folder = Path("out") / "combinations" / ("validation" if combination.calibration else "")
        assert found.run(combination, 0).output == folder / combination.key / "seed_0"


def test_a_calibrated_second_stage_of_another_sampler_has_the_config_of_all_its_parts():
    found = parts(overrides=("SOLVER.MAX_ITER", "7"), split=("DATASETS.TEST", "('search',)"))
    combination = Combination("rfs", "class_aware", "decoupled_balanced_sigmoid", "rfs_logit_adjustment")
    assert found.title(combination) == ("RFS + class-aware sampling + second stage Balanced Sigmoid + Logit adjustment")
    first, second, last = with_first_stages([found.run(combination, 3)])
    assert first.config().DATALOADER.SAMPLER_TRAIN == "ClassAwareTrainingSampler"
    assert str(first.weights) == second.config().MODEL.WEIGHTS and second.config().SEED == 3
    cfg = last.config()
    assert isinstance(last, EvaluationRun) and str(second.weights) == cfg.MODEL.WEIGHTS
    assert cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME == "logit_adjustment"
    assert cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME == "balanced_sigmoid"
    assert {run.config().SOLVER.MAX_ITER for run in (first, second, last)} == {7}
    assert cfg.DATASETS.TEST == ("rendered_val",)
    other = found.search_run(combination)
    assert other.config().DATASETS.TEST == ("search",) and other.output != last.output
    assert other.after == found.model_run(combination, 0) != second


def test_what_only_the_search_trains_is_evaluated_on_the_search_split_by_its_training():
    found = parts(split=("DATASETS.TEST", "('search',)"))
    combination = Combination("rfs", "class_aware", "crt")
    ranked, final = found.search_run(combination), found.run(combination, 0)
    assert ranked.trains and ranked.config().DATASETS.TEST == ranked.after.config().DATASETS.TEST == ("search",)
    assert isinstance(final, EvaluationRun) and final.after == ranked
    assert final.config().DATASETS.TEST == ("rendered_val",) and final.output != ranked.output
    other_seed = found.run(combination, 1)
    assert other_seed.trains and other_seed.config().DATASETS.TEST == ("rendered_val",)
    method = Combination("rfs", second_stage="crt")  # shared with the comparison
    assert found.run(method, 0).trains and found.run(method, 0).config().DATASETS.TEST == ("rendered_val",)
    assert isinstance(found.search_run(method), EvaluationRun) and found.search_run(method).after == found.run(
        method, 0
    )


@pytest.fixture
def comparison(rendered, tmp_path):
    return Comparison(tmp_path, rendered)


@pytest.fixture
def no_other_samplers(monkeypatch):
    monkeypatch.setattr("balanced_lvis.experiments.combinations.SAMPLERS", {})


def search(comparison, keys=KEYS, **named):
    log = comparison.program.parent / "log.txt"
    log.unlink(missing_ok=True)
    content = search_combinations(comparison.experiment(keys, (0, 1)), **named)
    return content, comparison.started()


def test_a_search_shares_runs_with_the_comparison_and_is_resumed(comparison, no_other_samplers, monkeypatch):
    monkeypatch.setattr(combination_search, "KEPT", 9)
    comparison(["rfs", "crt"], seeds=(0,))
    content, started = search(comparison, finalists=1)
    # Evaluations on the search split have the names of combinations.
    assert started["rfs/seed_0"] == started["rfs+crt/seed_0"] == "evaluate" and "crt/seed_0" not in started
    assert started["rfs/seed_1"] == "start" and started["rfs_logit_adjustment/seed_1"] == "evaluate"
    trained = {path.parents[1].name for path in comparison.output.glob("combinations/*/seed_0/model_final.pth")}
    assert trained == {"rfs_softmax+crt"}
    assert content["seeds"] == [0, 1] and list(content["methods"]) == list(KEYS)
    tried = list(content["search"])
    assert tried[:2] == ["rfs", "rfs_softmax"] and "rfs_softmax+crt+rfs_logit_adjustment" in tried
    assert content["search"]["rfs"]["AP"] == 10.0
    assert json.loads((comparison.output / "combinations.json").read_text()) == content
    page = (comparison.output / "combinations.md").read_text()
    assert "is not always ahead of every one of the 6 methods in mask AP: with 0 of 2 seeds" in page
    assert search(comparison, finalists=1) == (content, {})
    assert comparison(KEYS, seeds=(0, 1)) == {}
    unfinished = comparison.output / "combinations" / "search" / "rfs" / "seed_0" / "evaluation" / "results.json"
    unfinished.unlink()
    assert search(comparison, finalists=1) == (content, {"rfs/seed_0": "evaluate"})
    with pytest.raises(InputError, match="--finalists is 0; it must be 1 or more"):
        search(comparison, finalists=0)


def test_the_search_split_has_other_images_and_the_categories_of_the_training_set(rendered):
    cfg = load_config(CONFIGS / "rendered" / "rfs.yaml", [*QUICK, *tiny(rendered)])
    words, images = search_split(cfg)
    assert images == 12
    found = json.loads(Path(words[words.index("DATASETS.CUSTOM.search.JSON") + 1]).read_text())
    own = json.loads((rendered / "annotations" / "rendered_val.json").read_text())
    assert [c["name"] for c in found["categories"]] == [c["name"] for c in own["categories"]]
    assert all("frequency" not in category for category in found["categories"])
    assert [a["bbox"] for a in found["annotations"]] != [a["bbox"] for a in own["annotations"]]
    assert load_config(CONFIGS / "rendered" / "rfs.yaml", words).DATASETS.TEST == ("search",)
    with pytest.raises(InputError, match="needs a dataset to render"):
        search_split(load_config(CONFIGS / "r50_rfs.yaml"))


def results(ap):
    return {"segm": {"AP": ap, "APr": ap, "APc": ap, "APf": ap}, "bbox": {"AP": ap, "APr": ap, "APc": ap, "APf": ap}}


def test_a_combination_is_compared_with_the_best_method_of_each_seed():
    methods = statistics_table({"rfs": [results(1.0), results(5.0)], "crt": [results(3.0), results(2.0)]})
    combinations = statistics_table({"a": [results(4.0), results(6.0)], "b": [results(9.0), results(4.0)]})
    found = compared_with_all(combinations, methods)
    assert found["a"]["AP"]["margin"] == {"mean": 1.0, "std": 0.0, "runs": [1.0, 1.0], "ahead": 2}
    assert found["b"]["APr"]["margin"]["runs"] == [6.0, -1.0] and found["b"]["APr"]["margin"]["ahead"] == 1
    search = {key: {metric: 1.0 for metric in methods["rfs"]} for key in ("rfs", "a", "b")}
    content = {
        "search": search, "methods": methods, "combinations": found, "search_seed": 7, "seeds": [0, 1], "metric": "APr",
    }  # fmt: skip
    titles = {"rfs": "RFS", "crt": "cRT (stage 2 of RFS)", "a": "A", "b": "B"}
    page = combinations_page(content, titles, 12, "Made by \udcff")
    assert "ranked by mask APr on 12 images" in page and page.endswith("Made by \\udcff\n")
    assert "Seed 7 is none of the seeds below." in page
    assert "- **A** is ahead of every one of the 2 methods in mask APr: with 2 of 2 seeds." in page
    assert "- **B** is not always ahead of every one of the 2 methods in mask APr: with 1 of 2 seeds." in page
    assert "| +1.0 ± 0.0 (2/2) |" in page
    content["search_seed"] = 0
    assert "Seed 0 is also one of the 2 seeds below" in combinations_page(content, titles, 12, "Made by me")


def test_wrong_arguments_are_errors(comparison):
    with pytest.raises(InputError, match="--metric: 'APx'; valid: AP, APf"):
        search(comparison, metric="APx")


def test_the_command_starts_the_search(monkeypatch):
    found = []
    monkeypatch.setattr(command, "search_combinations", lambda *arguments: found.append(arguments))
    assert command.main(["--combinations", "--search-seed", "3", "--metric", "AP_box", "--methods", "rfs"]) == 0
    experiment, *others = found[0]
    assert experiment.seeds == (0, 1, 2) and others == [3, "AP_box", 3]
