"""Activations with their own outputs, and calibrations, in whole models: trained, evaluated, converted, predicted."""

import argparse
import json
import logging
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

from balanced_lvis.commands.export_checkpoint import Options, export_checkpoint
from balanced_lvis.commands.train import argument_parser
from balanced_lvis.config import load_config
from balanced_lvis.engine.checkpoints.conversion import convert_checkpoint
from balanced_lvis.engine.checkpoints.identity import Identity
from balanced_lvis.engine.checkpoints.weights import load_for_evaluation
from balanced_lvis.engine.run import check, read_config, run
from balanced_lvis.modeling.box_predictor import calibration_from_config
from balanced_lvis.modeling.decoupled import CLASSIFIER
from balanced_lvis.prediction.predictor import Predictor
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.run_files import SAVED_PRIOR
from tests.activations import toys
from tests.common import CONFIGS, rendered_opts
from tests.engine.test_second_stage import EVALUATED, tensors, train

K = 12
NAME = "MODEL__ROI_BOX_HEAD__ACTIVATION__NAME"
CALIBRATION = "MODEL.ROI_BOX_HEAD.CALIBRATION.NAME"
SOFTMAX = ["MODEL.ROI_BOX_HEAD.ACTIVATION.NAME", "softmax"]
SHORT = {"SOLVER__MAX_ITER": 2, "TEST__EVAL_PERIOD": 0, "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.0}

pytestmark = pytest.mark.usefixtures("toy_activations")


# ------------------------------------------------------------------ K+2 outputs and a classifier without bias


@pytest.fixture(scope="module")
def objectness(rendered, tmp_path_factory):
    output = tmp_path_factory.mktemp("objectness")
    return train("rfs", rendered, output, **SHORT, **EVALUATED, **{NAME: toys.OBJECTNESS})


def test_an_activation_with_more_outputs_is_trained_and_evaluated(objectness):
    weights = tensors(objectness)
    assert weights[f"{CLASSIFIER}.weight"].shape[0] == K + 2 and f"{CLASSIFIER}.bias" not in weights
    assert set(json.loads((objectness / "results.json").read_text())) == {"bbox", "segm"}


def test_it_is_converted_to_the_same_weights(objectness, tmp_path):
    source = objectness / "model_final.pth"
    done = convert_checkpoint(source, tmp_path / "converted.pth")
    assert (done.num_classes, done.family, done.steps) == (K, toys.OBJECTNESS, [])
    before, after = tensors(objectness), tensors(tmp_path, "converted")
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    with pytest.raises(InputError, match="14 outputs for 12 classes, which layout 'no_background'"):
        convert_checkpoint(source, tmp_path / "without.pth", layout="no_background")


def image_of(rendered) -> Path:
    return sorted(rendered.glob("**/*.jpg"))[0]


def test_it_predicts_without_a_prior(objectness, rendered):
    (objectness / SAVED_PRIOR).unlink()
    predictor = Predictor.from_checkpoint(objectness / "model_final.pth", threshold=0.0)
    assert len(predictor.predict(image_of(rendered)).scores) > 0


@pytest.mark.parametrize("classifier", ["retrain", "finetune", "rescale"])
def test_a_second_stage_trains_its_own_classifier(objectness, rendered, tmp_path, classifier):
    options = {"MODEL__META_ARCHITECTURE": "DecoupledRCNN", "MODEL__DECOUPLED__CLASSIFIER": classifier}
    weights = {"MODEL__WEIGHTS": objectness / "model_final.pth", NAME: toys.OBJECTNESS}
    after = tensors(train("rfs", rendered, tmp_path, **SHORT, **options, **weights))
    before = tensors(objectness)
    changed = {key for key in after if key not in before or not torch.equal(after[key], before[key])}
    assert changed == {f"{CLASSIFIER}.scale" if classifier == "rescale" else f"{CLASSIFIER}.weight"}


def test_other_weights_start_as_with_any_activation(tiny_cfg):
    states = []
    for name in ("sigmoid", toys.OBJECTNESS):
        tiny_cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME = name
        torch.manual_seed(5)
        states.append(build_model(tiny_cfg).state_dict())
    others = [key for key in states[0] if not key.startswith(CLASSIFIER)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in others)


# ------------------------------------------------------------------ calibrations


@pytest.fixture(scope="module")
def stage(rendered, tmp_path_factory):
    """A run without calibration, whose classifier is not that of a uniform prior."""
    output = train("rfs", rendered, tmp_path_factory.mktemp("plain"), **SHORT)
    path = output / "model_final.pth"
    content = torch.load(path, weights_only=True)
    content["model"][f"{CLASSIFIER}.weight"].normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    torch.save(content, path)
    return output


def evaluated(rendered, folder, stage, *opts):
    """The detections of --eval-only, as {image: scores}."""
    words = ["--config-file", CONFIGS / "rendered" / "rfs.yaml", "--eval-only", *rendered_opts(rendered, folder)]
    words += ["MODEL.WEIGHTS", stage / "model_final.pth", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", *opts]
    args = argument_parser().parse_args([*map(str, words)])
    cfg = read_config(args)
    check(cfg, args)
    run(cfg, args)
    return scores_by_image(next(folder.glob("**/lvis_instances_results.json")))


def exported(rendered, folder, stage, *opts):
    """The detections of a submission, as {image: scores}."""
    words = [*rendered_opts(rendered, folder)[:-2], "MODEL.WEIGHTS", stage / "model_final.pth"]
    words += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", *opts]
    args = argparse.Namespace(
        config_file=str(CONFIGS / "rendered" / "rfs.yaml"), opts=[*map(str, words)], num_gpus=1, num_machines=1,
        machine_rank=0, dist_url="auto",
    )  # fmt: skip
    export_checkpoint(args, Options("rendered_val", str(folder)))
    return scores_by_image(folder / "rendered_val_bbox.json")


def scores_by_image(path):
    found = {}
    for record in json.loads(path.read_text()):
        found.setdefault(record["image_id"], []).append((record["category_id"], record["score"]))
    return {image: sorted(scores, key=lambda pair: (-pair[1], pair[0])) for image, scores in found.items()}


def predicted(rendered, stage, *opts):
    """The same of the predictor."""
    predictor = Predictor.from_checkpoint(stage / "model_final.pth", opts=opts, threshold=0.0)
    found = {}
    for record in DatasetCatalog.get("rendered_val"):
        prediction = predictor.predict(record["file_name"])
        pairs = zip((prediction.classes + 1).tolist(), prediction.scores.tolist())
        found[record["image_id"]] = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
    return found


def assert_alike(found, expected):
    assert found.keys() == expected.keys()
    for image, pairs in found.items():
        assert len(pairs) == len(expected[image])
        scores, others = ([score for _, score in side] for side in (pairs, expected[image]))
        assert scores == pytest.approx(others, rel=1e-4, abs=1e-6)


def test_a_calibration_changes_evaluation_prediction_and_export_alike(rendered, stage, tmp_path):
    opts = (CALIBRATION, "logit_adjustment", "MODEL.ROI_BOX_HEAD.CALIBRATION.LOGIT_ADJUSTMENT.TAU", "0.7")
    plain = evaluated(rendered, tmp_path / "plain", stage)
    found = evaluated(rendered, tmp_path / "evaluated", stage, *opts)
    assert any(found[image] != plain[image] for image in found)
    assert_alike(exported(rendered, tmp_path / "exported", stage, *opts), found)
    assert_alike(predicted(rendered, stage, *opts), found)
    assert_alike(predicted(rendered, stage), plain)


def test_a_calibration_finds_the_prior_next_to_a_checkpoint_whatever_its_activation(stage, tiny_cfg):
    prior = ClassPrior.load(stage / SAVED_PRIOR)
    opts = [CALIBRATION, "logit_adjustment"]
    predictor = Predictor.from_checkpoint(stage / "model_final.pth", opts=opts, threshold=0.0)
    shift = predictor._model.roi_heads.box_predictor.calibration.shift
    expected = torch.tensor(prior.num_classes * prior.share()).log().float()
    torch.testing.assert_close(shift, expected)


def test_a_checkpoint_of_detectron2_is_calibrated_by_a_prior_that_is_named(tiny_cfg, tmp_path):
    """It tells neither classes nor activation, and has no prior next to it."""
    torch.save({"model": build_model(tiny_cfg).state_dict()}, tmp_path / "theirs.pth")
    (tmp_path / "config.yaml").write_text(tiny_cfg.dump())
    path = tmp_path / "prior.json"
    ClassPrior(tuple(f"c{i}" for i in range(K)), range(1, K + 1), 100).save(path)
    nowhere = ["DATASETS.TRAIN", "()", CALIBRATION, "logit_adjustment"]
    with pytest.raises(InputError, match=r"Class frequencies .* are needed, but DATASETS.TRAIN is empty"):
        Predictor.from_checkpoint(tmp_path / "theirs.pth", opts=nowhere)
    predictor = Predictor.from_checkpoint(tmp_path / "theirs.pth", opts=[*nowhere, "MODEL.CLASS_PRIOR.FILE", str(path)])
    assert predictor._model.roi_heads.box_predictor.calibration.shift.shape == (K,)


def test_every_stage_of_cascade_heads_is_calibrated(tiny_cfg, tmp_path):
    tiny_cfg.merge_from_list(["MODEL.ROI_HEADS.NAME", "LongTailCascadeROIHeads", CALIBRATION, "logit_adjustment"])
    tiny_cfg.merge_from_list(["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True])
    model = build_model(tiny_cfg).eval()
    logits = torch.randn(5, K + 1)
    for predictor in model.roi_heads.box_predictor:
        expected = predictor.calibration.scores(predictor.activation, logits)
        assert torch.equal(predictor.scores(logits), expected)
        assert not torch.equal(expected, predictor.activation.scores(logits))


def test_a_calibration_is_not_part_of_a_checkpoint(tiny_cfg, tmp_path):
    plain = build_model(tiny_cfg).state_dict()
    torch.save({"model": plain, Identity.KEY: Identity.from_config(tiny_cfg).state_dict()}, tmp_path / "model.pth")
    tiny_cfg.merge_from_list([CALIBRATION, "logit_adjustment"])
    model = build_model(tiny_cfg)
    assert model.state_dict().keys() == plain.keys()
    load_for_evaluation(model, str(tmp_path / "model.pth"), Identity.from_config(tiny_cfg))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ([CALIBRATION, "logit_adjustmnt"], "Unknown calibration 'logit_adjustmnt'"),
        (
            [CALIBRATION, "iif", "MODEL.ROI_BOX_HEAD.ACTIVATION.NAME", toys.OBJECTNESS],
            "Calibration 'iif' can't be combined with activation 'toy_objectness': it is for the families softmax",
        ),
        ([CALIBRATION, "logn", *SOFTMAX], "statistics of logn is empty"),
        (
            [CALIBRATION, "logn", *SOFTMAX, "MODEL.ROI_HEADS.NAME", "LongTailCascadeROIHeads"],
            "'logn' can't be combined with MODEL.ROI_HEADS.NAME 'LongTailCascadeROIHeads'",
        ),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused(opts, message):
    with pytest.raises(InputError, match=message):
        calibration_from_config(load_config("", opts))


def test_calibrating_with_the_prior_what_was_trained_with_it_is_warned_of(package_log):
    with package_log.at_level(logging.WARNING, "balanced_lvis"):
        for activation in ("sigmoid", "balanced_sigmoid", "balanced_sigmoid"):
            opts = [CALIBRATION, "norcal", "MODEL.ROI_BOX_HEAD.ACTIVATION.NAME", activation]
            calibration_from_config(load_config("", opts))
    warnings = [record.getMessage() for record in package_log.records]
    assert len(set(warnings)) == 1 and "activation balanced_sigmoid has corrected for it already" in warnings[0]


def test_evaluation_needs_no_prior(tiny_cfg):
    tiny_cfg.merge_from_list(["DATASETS.TRAIN", (), "MODEL.CLASS_PRIOR.FILE", ""])
    model = build_model(tiny_cfg).eval()
    image = torch.zeros(3, 96, 96, dtype=torch.uint8)
    with torch.no_grad():
        assert "instances" in model([{"image": image}])[0]
    with pytest.raises(InputError, match="DATASETS.TRAIN is empty"):
        model.roi_heads.box_predictor.activation.prepare()
