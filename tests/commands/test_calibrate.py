"""Grids of calibrations as a user evaluates them, against ordinary evaluations with each calibration."""

import json

import pytest

from balanced_lvis.calibration import calibration_class
from balanced_lvis.commands import calibrate
from balanced_lvis.commands.train import main as train
from balanced_lvis.experiments import calibration_grid
from balanced_lvis.utils.errors import InputError
from tests import programs
from tests.commands.mask_head import randomize_mask_head
from tests.common import CONFIGS, ROOT, rendered_opts

CONFIG = CONFIGS / "rendered" / "rfs_softmax.yaml"
# Few training iterations find little, with low scores.
OPTS = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "TEST.DETECTIONS_PER_IMAGE", "40"]
NODE = "MODEL.ROI_BOX_HEAD.CALIBRATION"
GRID = ["--calibration", "logit_adjustment", "--grid", "TAU", "0", "0.5", "2", "--grid", "COUNT", "image", "instance"]


@pytest.fixture(scope="module")
def trained(rendered, tmp_path_factory):
    """A model that has learned something, whose mask head predicts masks of all kinds."""
    output = tmp_path_factory.mktemp("trained")
    opts = [*rendered_opts(rendered, output), "SOLVER.MAX_ITER", "60", "DATASETS.TEST", "()"]
    assert train(["--config-file", str(CONFIG), *opts]) == 0
    randomize_mask_head(output / "model_final.pth")
    return output / "model_final.pth"


def words_of(rendered, trained, output, *flags, opts=()) -> list[str]:
    overrides = [*rendered_opts(rendered, output), *OPTS, "MODEL.WEIGHTS", trained, *opts]
    return [*map(str, ("--config-file", CONFIG, *flags, *overrides))]


@pytest.fixture(scope="module")
def table(rendered, trained, tmp_path_factory):
    """The folder of a grid's results."""
    output = tmp_path_factory.mktemp("grid")
    assert calibrate.main(words_of(rendered, trained, output, *GRID)) == 0
    return output / "calibration"


def read(folder) -> dict:
    return json.loads((folder / "table.json").read_text(encoding="utf-8"))


def evaluated(rendered, trained, output, *flags, opts=(), config=CONFIG) -> dict:
    """An ordinary evaluation."""
    overrides = [*rendered_opts(rendered, output), *OPTS, "MODEL.WEIGHTS", str(trained), *opts]
    assert train(["--config-file", str(config), "--eval-only", *flags, *overrides]) == 0
    return json.loads((output / "evaluation" / "results.json").read_text(encoding="utf-8"))


def test_every_setting_has_the_numbers_of_an_ordinary_evaluation(table, rendered, trained, tmp_path):
    settings = read(table)["settings"]
    assert [setting["calibration"] for setting in settings] == ["", *["logit_adjustment"] * 6]
    found = [setting["results"] for setting in settings]
    assert found[0]["bbox"]["AP"] > 0 and found[0]["segm"]["AP"] > 0
    assert len({json.dumps(results) for results in found}) > 3  # the settings differ
    for setting in settings:
        opts = [f"{NODE}.NAME", setting["calibration"]]
        for name, value in setting["options"].items():
            opts += [f"{NODE}.LOGIT_ADJUSTMENT.{name.upper()}", str(value)]
        assert evaluated(rendered, trained, tmp_path, opts=opts) == setting["results"], setting["label"]


def test_the_files_are_written_and_the_detections_removed(table):
    names = {path.name for path in table.iterdir()}
    assert names == {".lock", "log.txt", "table.json", "table.md", "tradeoff.png", "best.yaml"}
    page = (table / "table.md").read_text(encoding="utf-8")
    found = read(table)
    for setting in found["settings"]:
        assert f"| {setting['label']} " in page
    assert "on which results are reported" in page and len(found["warnings"]) == 1
    assert "--grid TAU 0 0.5 2 --grid COUNT image instance" in page
    values = [setting["results"]["segm"]["AP"] for setting in found["settings"]]
    assert found["select"] == "segm/AP" and values[found["best"]] == max(values)


def test_the_written_config_evaluates_the_best_setting(table, trained, tmp_path):
    best = table / "best.yaml"
    words = ["--config-file", str(best), "--eval-only", "MODEL.WEIGHTS", str(trained), "OUTPUT_DIR", str(tmp_path)]
    assert train(words) == 0  # the overrides of the command line are in the config
    found = read(table)
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text(encoding="utf-8"))
    assert results == found["settings"][found["best"]]["results"]


def test_held_out_images_are_reported_without_a_choice_on_them(rendered, trained, tmp_path):
    flags = (*GRID, "--holdout", "0.4", "--seed", "1", "--select", "bbox/APr", "--output", tmp_path / "here")
    assert calibrate.main(words_of(rendered, trained, tmp_path, *flags)) == 0
    found = read(tmp_path / "here")
    assert (found["images"], found["holdout"]["images"]) == (7, 5) and not found["warnings"]
    values = [setting["results"]["bbox"]["APr"] for setting in found["settings"]]
    best = max(range(1, 7), key=lambda index: (values[index], -index))
    assert set(found["holdout"]["results"]) == {"0", str(best)}
    assert found["best"] == (best if values[best] > values[0] else 0)
    # The parts are evaluated as a dataset of these images is.
    path = next(rendered.glob("**/*val*.json"))
    content = json.loads(path.read_text(encoding="utf-8"))
    ids = [image["id"] for image in content["images"]]
    for part, results in zip(
        calibration_grid.split_images(ids, 0.4, 1), (found["settings"][0]["results"], found["holdout"]["results"]["0"])
    ):
        kept = {
            "images": [image for image in content["images"] if image["id"] in part],
            "annotations": [one for one in content["annotations"] if one["image_id"] in part],
        }
        (tmp_path / "part.json").write_text(json.dumps({**content, **kept}))
        custom = {"JSON": tmp_path / "part.json", "IMAGES": rendered}
        opts = [str(word) for key, value in custom.items() for word in (f"DATASETS.CUSTOM.part.{key}", value)]
        opts += ["DATASETS.TEST", "('part',)"]
        assert evaluated(rendered, trained, tmp_path / "ordinary", opts=opts) == results


def test_a_cascade_without_masks_is_evaluated(rendered, tmp_path):
    opts = ["MODEL.ROI_HEADS.NAME", "LongTailCascadeROIHeads", "MODEL.MASK_ON", "False"]
    few = ["SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()"]
    assert train(["--config-file", str(CONFIG), *rendered_opts(rendered, tmp_path), *opts, *few]) == 0
    weights = tmp_path / "model_final.pth"
    flags = ("--calibration", "logit_adjustment", "--grid", "TAU", "1", "--dataset", "rendered_val")
    assert calibrate.main(words_of(rendered, weights, tmp_path, *flags, opts=opts)) == 0
    found = read(tmp_path / "calibration")
    none, adjusted = (setting["results"] for setting in found["settings"])
    assert list(none) == ["bbox"] and found["select"] == "bbox/AP"
    opts += [f"{NODE}.NAME", "logit_adjustment"]
    assert evaluated(rendered, weights, tmp_path, opts=opts) == adjusted


@pytest.mark.slow
def test_several_processes_write_the_same_table(table, rendered, trained, tmp_path):
    words = words_of(rendered, trained, tmp_path, "--num-gpus", "2", *GRID)
    done = programs.run(ROOT / "tools" / "calibrate.py", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert read(tmp_path / "calibration")["settings"] == read(table)["settings"]


def test_what_cannot_be_tried_is_in_the_report_and_earlier_files_are_removed(rendered, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration_grid, "calibration_names", lambda: ["fracal", "logn", "norcal"])
    monkeypatch.setattr(calibration_class("norcal"), "grid", {"gamma": (0.5,)})
    monkeypatch.setattr(calibration_grid, "best_of", lambda *_: None)
    prior = json.loads((trained.parent / "class_prior.json").read_text(encoding="utf-8"))
    for record in prior["classes"]:
        del record["fractal_dimension"]
    (tmp_path / "prior.json").write_text(json.dumps(prior))
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / "best.yaml").write_text("of an earlier call")
    opts = ["MODEL.CLASS_PRIOR.FILE", tmp_path / "prior.json", "MODEL.ROI_HEADS.NUM_CLASSES", "0"]
    assert calibrate.main(words_of(rendered, trained, tmp_path, "--holdout", "0.5", opts=opts)) == 0
    found = read(tmp_path / "calibration")
    assert [setting["calibration"] for setting in found["settings"]] == ["", "norcal"]
    fracal, logn = found["warnings"]
    assert "The calibration fracal was not tried:" in fracal and "needs the fractal dimension" in fracal
    assert "The calibration logn was not tried: statistics of logn is empty" in logn
    page = (tmp_path / "calibration" / "table.md").read_text(encoding="utf-8")
    assert fracal in page and logn in page
    assert not (tmp_path / "calibration" / "best.yaml").exists()


# ------------------------------------------------------------------ invalid input


def test_the_written_config_cannot_be_based_on_itself(rendered, trained, tmp_path, capsys):
    (tmp_path / "best.yaml").write_text(f"_BASE_: {CONFIG}\n")
    words = words_of(rendered, trained, tmp_path, "--output", tmp_path)
    assert calibrate.main([words[0], str(tmp_path / "best.yaml"), *words[2:]]) == InputError.exit_status
    assert "best.yaml, which this command writes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "opts", "message"),
    [
        (["--calibration", "logit_adjustmnt"], [], "Did you mean 'logit_adjustment'"),
        (["--calibration", "logit_adjustment", "--grid", "GAMMA", "1"], [], "no such option"),
        (["--calibration", "logit_adjustment", "--grid", "TAU", "x"], [], "'x' is not of type float"),
        (["--calibration", "logit_adjustment", "--grid", "COUNT", "pixel"], [], "'pixel'; valid"),
        (["--select", "APx"], [], "--select is 'APx'"),
        (["--holdout", "2"], [], "--holdout is 2"),
        ([], ["MODEL.WEIGHTS", ""], "add MODEL.WEIGHTS"),
        ([], ["MODEL.WEIGHTS", "no.pth"], "'no.pth' can't be read"),
        ([], ["DATASETS.TEST", "('rendered_val', 'rendered_test_dev')"], "name the dataset to evaluate on with --dat"),
        (["--dataset", "rendered_vall"], [], "Did you mean rendered_val"),
        ([], ["MODEL.CLASS_PRIOR.FILE", "no.json"], "no.json"),
        ([], ["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], "use LongTailROIHeads"),
    ],
)
def test_invalid_input_is_an_error_before_inference(
    rendered, trained, tmp_path, monkeypatch, capsys, flags, opts, message
):
    monkeypatch.setattr(calibrate, "_work", lambda *_: pytest.fail("inference has started"))
    words = words_of(rendered, trained, tmp_path, *flags, opts=opts)
    assert calibrate.main(words) == InputError.exit_status
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--grid", "TAU", "1"], "--grid TAU needs a --calibration before it"),
        (["--calibration", "x", "--grid", "TAU", "1", "--grid", "tau", "2"], "--grid tau is given twice"),
    ],
)
def test_a_misplaced_grid_is_a_usage_error(capsys, flags, message):
    with pytest.raises(SystemExit):
        calibrate.main(["--config-file", "any", *flags])
    assert message in capsys.readouterr().err
