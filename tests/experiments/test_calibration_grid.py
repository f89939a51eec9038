"""Settings of grids, the choice of the best and the report. Evaluation is tested in tests/commands."""

import math
import os
import re

import pytest
import yaml

from balanced_lvis.calibration import Calibration, LogitStatistics, base, calibration_class, calibration_names
from balanced_lvis.config import default_config, load_config
from balanced_lvis.experiments.calibration_grid import (
    Grid,
    Plan,
    Setting,
    best_of,
    build_calibrations,
    check_settings,
    default_grids,
    settings_of,
    split_images,
    warnings_of,
)
from balanced_lvis.experiments.calibration_report import (
    calibration_lines,
    config_of,
    plot_tradeoff,
    tables_of,
    write_report,
)
from balanced_lvis.modeling import box_predictor
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError

K = 4
NAMES = tuple("abcd")


@pytest.fixture
def cfg():
    cfg = default_config()
    cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME = "softmax"
    return cfg


@pytest.fixture
def prior_cfg(cfg, tmp_path):
    """With a class prior that serves all calibrations."""
    prior = ClassPrior(NAMES, [1, 2, 3, 4], 9, [1, 2, 3, 4], fractal_dimension=[1.0, 1.2, 1.5, 2.0])
    prior.save(tmp_path / "prior.json")
    cfg.merge_from_list(["MODEL.CLASS_PRIOR.FILE", str(tmp_path / "prior.json"), "MODEL.ROI_HEADS.NUM_CLASSES", K])
    return cfg


def values_of(settings):
    return [(setting.calibration, dict(setting.options)) for setting in settings]


def test_a_grid_is_all_combinations_and_none_is_first(cfg):
    grid = Grid("logit_adjustment", {"TAU": ["0.5", "1"], "count": ["image", "instance"]})
    settings = settings_of(cfg, [grid])
    assert values_of(settings) == [("", {})] + [
        ("logit_adjustment", {"tau": tau, "count": count}) for tau in (0.5, 1.0) for count in ("image", "instance")
    ]
    assert [setting.label for setting in settings][:2] == ["none", "logit_adjustment, tau 0.5, count image"]
    assert all(type(dict(setting.options)["tau"]) is float for setting in settings[1:])


def test_options_that_do_not_vary_are_those_of_the_config(cfg):
    cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.LOGIT_ADJUSTMENT.COUNT = "instance"
    _, setting = settings_of(cfg, [Grid("logit_adjustment", {"TAU": ["0.3"]})])
    assert dict(setting.options) == {"tau": 0.3, "count": "instance"}
    assert setting.label == "logit_adjustment, tau 0.3"


def test_equal_settings_are_evaluated_once(cfg):
    grids = [Grid("logit_adjustment", {"TAU": ["1", "0.5", "1.0"]}), Grid("logit_adjustment", {"TAU": ["0.5", "2"]})]
    assert [dict(s.options)["tau"] for s in settings_of(cfg, grids)[1:]] == [1.0, 0.5, 2.0]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_by_default_all_calibrations_of_the_family_are_tried_with_their_grids(prior_cfg, activation):
    cfg = prior_cfg
    cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME = activation
    grids, _ = default_grids(cfg)
    settings = settings_of(cfg, grids)
    tried = list(dict.fromkeys(setting.calibration for setting in settings))
    assert tried[0] == "" and {"logit_adjustment", "norcal", "fracal"} <= set(tried[1:]) <= set(calibration_names())
    for name in tried[1:]:
        own = [setting for setting in settings if setting.calibration == name]
        assert len(own) == math.prod(map(len, calibration_class(name).grid.values()))
    build_calibrations(cfg, settings)  # the values of default grids are valid


def test_a_calibration_that_lacks_something_is_not_tried_by_default(prior_cfg, monkeypatch):
    cfg = prior_cfg

    class Needy(Calibration):
        families = ("softmax",)

        def __init__(self, num_classes, prior=None):
            raise InputError("the file is missing")

    monkeypatch.setitem(base._CALIBRATIONS._classes, "needy", Needy)
    cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NEEDY = type(cfg)()
    grids, warnings = default_grids(cfg)
    assert grids and "needy" not in {grid.calibration for grid in grids}
    assert "The calibration needy was not tried: the file is missing" in warnings
    with pytest.raises(InputError, match="the file is missing"):
        build_calibrations(cfg, settings_of(cfg, [Grid("needy", {})]))
    monkeypatch.setattr(base._CALIBRATIONS, "_classes", {"needy": Needy})
    with pytest.raises(InputError, match="No calibration can be used with this model:\n  needy: the file is missing"):
        default_grids(cfg)


def test_fracal_alone_is_not_tried_where_annotations_cannot_be_read(cfg):
    """As for a checkpoint of Detectron2, which has no class_prior.json: the counts are in the metadata of LVIS-1.0."""
    cfg.merge_from_list(["DATASETS.TRAIN", ("lvis_v1_train",), "MODEL.ROI_HEADS.NUM_CLASSES", 1203])
    grids, warnings = default_grids(cfg)
    assert {"logit_adjustment", "norcal"} <= {grid.calibration for grid in grids}
    assert [warning for warning in warnings if "fracal" in warning and "lvis_v1_train" in warning]
    assert "fracal" not in {grid.calibration for grid in grids}


def test_statistics_of_other_classes_are_refused_as_in_an_evaluation(tiny_cfg, tmp_path):
    tiny_cfg.merge_from_list(["MODEL.WEIGHTS", str(tmp_path / "model.pth"), "DATASETS.TEST", ("rendered_val",)])
    number = tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES
    tiny_cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME = "softmax"
    names = [f"c{i}" for i in range(number)]
    LogitStatistics(names, [0.0] * number, [1.0] * number, 9).save(tmp_path / "model.logits.json")
    with pytest.raises(InputError, match="of other classes than dataset 'rendered_val'"):
        check_settings(tiny_cfg, settings_of(tiny_cfg, [Grid("logn", {})]))


def test_all_settings_share_the_class_prior(prior_cfg, monkeypatch):
    reads, read = [], box_predictor.class_prior_from_config
    monkeypatch.setattr(box_predictor, "class_prior_from_config", lambda *of: reads.append(of[1]) or read(*of))
    grids = [Grid("logit_adjustment", {}), Grid("norcal", {}), Grid("fracal", {})]
    settings = settings_of(prior_cfg, grids)
    calibrations = build_calibrations(prior_cfg, settings)
    assert not reads  # until they are needed
    assert len({id(each.prior) for each in calibrations[1:]}) == 2 < len(settings)
    assert sorted(reads) == [False, True]  # with the fractal dimensions, for fracal


def test_a_calibration_without_a_grid_is_tried_with_its_options(cfg, monkeypatch):
    monkeypatch.setattr(calibration_class("logit_adjustment"), "grid", Calibration.grid)
    assert values_of(settings_of(cfg, [Grid("logit_adjustment", {})]))[1:] == [
        ("logit_adjustment", {"tau": 1.0, "count": "image"})
    ]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (Grid("logit_adjustmnt", {}), "Did you mean 'logit_adjustment'"),
        (Grid("logit_adjustment", {"TAUU": ["1"]}), "no such option. Did you mean 'TAU'. Valid: TAU, COUNT"),
        (Grid("logit_adjustment", {"TAU": []}), "--grid TAU has no values; add some"),
        (Grid("logit_adjustment", {"TAU": ["one"]}), "'one' is not of type float, like 1.0"),
        (Grid("logit_adjustment", {"TAU": ["(1, 2)"]}), "is not of type float"),
        (Grid("logit_adjustment", {"TAU": ["1e400"]}), "tau of logit_adjustment is inf"),
        (Grid("logit_adjustment", {"COUNT": ["pixel"]}), "'pixel'; valid"),
    ],
)
def test_a_bad_grid_is_an_error(cfg, grid, message):
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        build_calibrations(cfg, settings_of(cfg, [grid]))


def test_a_calibration_of_another_family_is_an_error(cfg, monkeypatch):
    monkeypatch.setattr(calibration_class("logit_adjustment"), "families", ("sigmoid",))
    with pytest.raises(InputError, match="the activation is of the family 'softmax'"):
        build_calibrations(cfg, settings_of(cfg, [Grid("logit_adjustment", {})]))
    monkeypatch.setattr(base._CALIBRATIONS, "_classes", {"logit_adjustment": calibration_class("logit_adjustment")})
    with pytest.raises(InputError, match="No calibration can be used with this model:\n  logit_adjustment: Cal"):
        default_grids(cfg)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"select": "AQ"}, "--select is 'AQ'; valid: AP, AP50"),
        ({"select": "boxes/AP"}, "--select is 'boxes/AP'"),
        ({"holdout": 1.0}, "--holdout is 1; it must be"),
        ({"holdout": -0.1}, "--holdout is -0.1"),
        ({"holdout": math.nan}, "--holdout is nan"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_a_bad_plan_is_an_error(change, message):
    Plan("any", (Setting(),), select="bbox/APr", holdout=0.5).check()
    with pytest.raises(InputError, match=message):
        Plan("any", (Setting(),), **change).check()


def test_images_are_split_by_the_seed_alone():
    ids = [7, 3, 12, 5, 9, 30, 1]
    chosen, held_out = split_images(ids, 0.4, 0)
    assert sorted([*chosen, *held_out]) == sorted(ids) and len(held_out) == 3
    assert split_images(ids[::-1], 0.4, 0) == (chosen, held_out)
    assert any(split_images(ids, 0.4, seed) != (chosen, held_out) for seed in (1, 2, 3))
    assert split_images(ids, 0, 0) == (sorted(ids), [])
    assert [len(part) for part in split_images(ids, 0.001, 0)] == [6, 1]
    assert [len(part) for part in split_images(ids, 0.999, 0)] == [1, 6]
    with pytest.raises(InputError, match="2 images or more; the dataset has 1"):
        split_images([4], 0.5, 0)


def test_the_best_is_the_first_of_the_highest_and_nan_is_never_best():
    results = [{"bbox": {"AP": value}} for value in (math.nan, 1.0, 3.0, 3.0, 2.0)]
    assert best_of(results, "bbox/AP") == 2
    assert best_of(results[:1], "bbox/AP") is None


# ------------------------------------------------------------------ warnings


def test_a_choice_on_reported_images_is_warned_of(tiny_cfg):
    assert "rendered_val is in DATASETS.TEST" in "".join(warnings_of(tiny_cfg, "rendered_val", ["rendered_val"], 0))
    assert not warnings_of(tiny_cfg, "rendered_val", ["rendered_val"], 0.5)
    assert not warnings_of(tiny_cfg, "rendered_val", ["rendered_test_dev"], 0)
    (warning,) = warnings_of(tiny_cfg, "rendered_train", ["rendered_val"], 0)
    assert "rendered_train is in DATASETS.TRAIN" in warning


def test_other_datasets_of_the_same_images_are_warned_of(tiny_cfg, rendered, own_catalogs):
    path, root = str(next(rendered.glob("**/*val*.json"))), str(rendered)
    tiny_cfg.merge_from_list(["DATASETS.TEST", ("rendered_val",)])
    tiny_cfg.DATASETS.CUSTOM.my_val = type(tiny_cfg)({"JSON": path, "IMAGES": root})
    (warning,) = warnings_of(tiny_cfg, "my_val", ["rendered_val"], 0)
    assert "my_val has images of rendered_val, which is in DATASETS.TEST" in warning


def test_a_reported_dataset_that_is_missing_is_warned_of(tiny_cfg):
    (warning,) = warnings_of(tiny_cfg, "rendered_val", ["lvis_v1_val"], 0)
    assert "lvis_v1_val in DATASETS.TEST can't be read, so it is not known whether it has images" in warning


# ------------------------------------------------------------------ report


def results(ap, apr, apf):
    return {"bbox": {"AP": ap, "APr": apr, "APc": ap, "APf": apf}}


def found(holdout=None):
    def setting(label, calibration, options, *values):
        varied = [*options]
        return {
            "label": label, "calibration": calibration, "options": options, "varied": varied,
            "results": results(*values),
        }  # fmt: skip

    settings = [setting("none", "", {}, 1.0, math.nan, 5.0)]
    settings += [setting(f"x, tau {t}", "x", {"tau": t, "count": c}, t, t, t) for t in (1.0, 2.0) for c in ("a", "b")]
    return {
        "dataset": "val", "images": 10, "select": "bbox/AP", "best": 3, "settings": settings, "holdout": holdout
    }  # fmt: skip


def test_the_table_marks_the_best_and_shows_held_out_results():
    text = tables_of(found(), ["too good"])
    assert "**Warning:** too good" in text and "The best by box AP" in text
    assert re.findall(r"(?m)^\| (.*) \*  ?\|", text) == ["x, tau 2.0"]
    assert "mask" not in text and "| none" in text and "–" in text
    held = {"share": 0.5, "seed": 3, "images": 4, "results": {"0": results(7, 7, 7), "3": results(8, 8, 8)}}
    text = tables_of(found(held))
    assert "On 4 held-out images (share 0.5, seed 3)" in text
    assert "8.00" in text.partition("held-out")[2] and "x, tau 1.0" not in text.partition("held-out")[2]


def test_a_command_line_that_is_not_utf_8_is_escaped(tmp_path):
    write_report(found(), tmp_path, (), "balanced-lvis calibrate a\udcff.yaml")
    assert (tmp_path / "table.md").read_text().endswith("\nbalanced-lvis calibrate a\\udcff.yaml\n")


def test_a_plot_is_drawn_where_values_are_missing(tmp_path):
    plot_tradeoff(found(), tmp_path / "plot.png")
    plot_tradeoff({**found(), "best": None}, tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert (tmp_path / "plot.png").stat().st_size > 1000 and "<svg" in text


def test_the_config_of_a_setting_has_its_options_and_the_overrides(tmp_path):
    os.mkdir(tmp_path / "out")
    (tmp_path / "mine.yaml").write_text("_BASE_: rendered/rfs_softmax\nSEED: 5\n")
    setting = {"label": "any", "calibration": "logit_adjustment", "options": {"tau": 0.25, "count": "instance"}}
    overrides = {"TEST.DETECTIONS_PER_IMAGE": 7, "DATASETS.TEST": ("rendered_test_dev",)}
    path = tmp_path / "out" / "best.yaml"
    path.write_text(config_of(setting, str(tmp_path / "mine.yaml"), overrides, tmp_path / "out"))
    cfg = load_config(path)
    node = cfg.MODEL.ROI_BOX_HEAD.CALIBRATION
    assert (node.NAME, node.LOGIT_ADJUSTMENT.TAU, node.LOGIT_ADJUSTMENT.COUNT) == ("logit_adjustment", 0.25, "instance")
    assert (cfg.SEED, cfg.TEST.DETECTIONS_PER_IMAGE, cfg.DATASETS.TEST) == (5, 7, ("rendered_test_dev",))
    assert cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME == "softmax"
    path.write_text(config_of(setting, "rendered/rfs", {}, tmp_path / "out"))  # a config of the package, by its name
    assert load_config(path).MODEL.ROI_BOX_HEAD.CALIBRATION.LOGIT_ADJUSTMENT.TAU == 0.25
    assert yaml.safe_load(calibration_lines(setting))["MODEL"]["ROI_BOX_HEAD"]["CALIBRATION"] == {
        "NAME": "logit_adjustment", "LOGIT_ADJUSTMENT": {"TAU": 0.25, "COUNT": "instance"}
    }  # fmt: skip
