"""Every calibration in whole detectors: on checkpoints of Detectron2, and on one of this package."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers

from balanced_lvis.calibration import LogitStatistics, calibration_names
from balanced_lvis.commands import export_checkpoint
from balanced_lvis.commands.collect_logits import main as collect_logits
from balanced_lvis.config import load_config
from balanced_lvis.engine import logit_collection
from balanced_lvis.engine.logit_collection import collect_logit_statistics
from balanced_lvis.modeling.box_predictor import ActivationOutputLayers, check_classification
from balanced_lvis.prediction.predictor import Predictor
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError, StorageError
from balanced_lvis.utils.io import sha256_of
from balanced_lvis.utils.run_files import SAVED_PRIOR
from tests import reference
from tests import reference_calibration as naive
from tests.common import CONFIGS, rendered_opts
from tests.engine.test_second_stage import tensors, train

K = 12
NAMES = tuple(f"c{i}" for i in range(K))
COUNTS = list(range(1, K + 1))
DIMENSIONS = np.linspace(1, 2, K).tolist()
MEAN, STD = np.linspace(-3, -1, K).tolist(), np.linspace(0.5, 2, K).tolist()
NAME = "MODEL.ROI_BOX_HEAD.CALIBRATION.NAME"


def expected_scores(name, sigmoid, logits):
    """By the naive derivations, of K+1 outputs."""
    if name == "logn":
        return [naive.softmax(row) for row in naive.logn(logits, MEAN, STD)]
    if name == "logit_adjustment":
        return reference.adjusted_scores(logits, COUNTS, 1.0, "sigmoid" if sigmoid else "softmax")[:, :K]
    if name == "iif":
        return naive.iif(logits, COUNTS, 20, "raw", "multiply", True)
    if name == "norcal":
        return (naive.norcal_sigmoid if sigmoid else naive.norcal_softmax)(logits, COUNTS, 0.6)
    return (naive.fracal_sigmoid if sigmoid else naive.fracal_softmax)(logits, COUNTS, DIMENSIONS, 2.0)


@pytest.fixture(scope="module", params=[False, True], ids=["softmax", "sigmoid"])
def stock(request, tmp_path_factory):
    """A checkpoint of Detectron2's own model with its config, which knows none of this package's keys."""
    folder, cfg = tmp_path_factory.mktemp("stock"), get_cfg()
    small = load_config(CONFIGS / "quick_start" / "balanced_sigmoid.yaml", rendered_opts("unused", "unused"))
    for key in ("BACKBONE", "RESNETS", "FPN", "ANCHOR_GENERATOR", "RPN", "ROI_MASK_HEAD"):
        for option in cfg.MODEL[key]:
            cfg.MODEL[key][option] = small.MODEL[key][option]
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", K, "MODEL.MASK_ON", False])
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.ROI_HEADS.NAME", "StandardROIHeads"])
    cfg.merge_from_list(["MODEL.ROI_HEADS.IN_FEATURES", small.MODEL.ROI_HEADS.IN_FEATURES, "DATASETS.TRAIN", ()])
    cfg.merge_from_list(["MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 1])
    cfg.merge_from_list(["MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 3])
    cfg.merge_from_list(["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", request.param, "INPUT.MIN_SIZE_TEST", 96])
    model = build_model(cfg).eval()
    assert type(model.roi_heads.box_predictor) is FastRCNNOutputLayers
    model.roi_heads.box_predictor.cls_score.weight.data.normal_(0, 0.5)
    torch.save({"model": model.state_dict()}, folder / "theirs.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    ClassPrior(NAMES, COUNTS, 20, COUNTS, fractal_dimension=DIMENSIONS).save(folder / "prior.json")
    LogitStatistics(NAMES, MEAN, STD, 100).save(folder / "theirs.logits.json")
    return request.param, model, folder


@pytest.mark.parametrize("name", calibration_names())
def test_a_checkpoint_of_detectron2_is_evaluated_with_each_calibration(stock, name):
    sigmoid, model, folder = stock
    opts = [NAME, name, "MODEL.CLASS_PRIOR.FILE", str(folder / "prior.json")]
    make = lambda: Predictor.from_checkpoint(folder / "theirs.pth", opts=opts, threshold=0.0)  # noqa: E731
    if name in ("iif", "logn") and sigmoid:
        with pytest.raises(InputError, match=f"'{name}' can't be combined with activation 'sigmoid'"):
            make()
        return
    predictor = make()
    logits = torch.randn(5, K + 1, dtype=torch.float64) * 2
    found = predictor._model.roi_heads.box_predictor.scores(logits)
    wanted = np.array(expected_scores(name, sigmoid, logits.tolist()))
    np.testing.assert_allclose(found[:, : wanted.shape[1]], wanted, atol=1e-5)
    plain = model.roi_heads.box_predictor.predict_probs((logits, None), [range(5)])[0]
    assert not np.allclose(found[:, :K], plain[:, :K])
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    assert len(predictor(image).scores)


# ------------------------------------------------------------------ statistics of logits


@pytest.fixture(scope="module")
def trained(rendered, tmp_path_factory):
    short = {"SOLVER__MAX_ITER": 2, "TEST__EVAL_PERIOD": 0}
    return train("rfs_softmax", rendered, tmp_path_factory.mktemp("trained"), **short)


def logn_config(rendered, trained, *opts):
    words = [*rendered_opts(rendered, trained / "unused"), "MODEL.WEIGHTS", trained / "model_final.pth", *opts]
    return load_config(CONFIGS / "rendered" / "rfs_softmax_logn.yaml", [*map(str, words)])


def test_statistics_are_of_the_logits_of_all_sampled_rois(rendered, trained, monkeypatch):
    seen, forward = [], ActivationOutputLayers.forward

    def recorded(self, x):
        predictions = forward(self, x)
        seen.append(predictions[0].numpy())
        return predictions

    monkeypatch.setattr(ActivationOutputLayers, "forward", recorded)
    before = tensors(trained)
    found = collect_logit_statistics(logn_config(rendered, trained), 5)
    logits = np.concatenate(seen).astype(np.float64)[:, :K]
    assert found.num_rois == len(logits) > 100
    np.testing.assert_allclose(found.mean, logits.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.std, logits.std(axis=0, ddof=1), rtol=1e-7)
    assert list(found.class_names) == MetadataCatalog.get("rendered_train").thing_classes
    assert all(torch.equal(value, before[key]) for key, value in tensors(trained).items())


def test_the_command_saves_them_where_the_calibration_finds_them(rendered, trained, capsys):
    words = [*rendered_opts(rendered, trained / "unused"), "MODEL.WEIGHTS", trained / "model_final.pth"]
    config = ["--config-file", str(CONFIGS / "rendered" / "rfs_softmax_logn.yaml")]
    assert not collect_logits([*config, "--images", "3", *map(str, words)])
    path = trained / "model_final.logits.json"
    assert str(path) in capsys.readouterr().out
    check_classification(logn_config(rendered, trained), training=False)
    predictor = Predictor.from_checkpoint(trained / "model_final.pth", opts=[NAME, "logn"])
    calibration = predictor._model.roi_heads.box_predictor.calibration
    assert calibration.statistics.mean.tolist() == LogitStatistics.load(path).mean.tolist()
    assert calibration.files == {"logit statistics": str(path)}
    assert export_checkpoint._origin_of_calibration(logn_config(rendered, trained)) == {
        "logit statistics": sha256_of(path)
    }
    content = json.loads(path.read_text())
    assert content["weights_sha256"] == sha256_of(trained / "model_final.pth")
    content["classes"][0]["name"] = "another"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="other classes than dataset 'rendered_val': 'another' in place of"):
        check_classification(logn_config(rendered, trained), training=False)


def test_statistics_of_an_earlier_training_are_refused(rendered, trained, tmp_path, caplog):
    shutil.copy(trained / "model_final.pth", tmp_path)
    classes = MetadataCatalog.get("rendered_val").thing_classes
    saved = LogitStatistics(classes, MEAN, STD, 100, "any", "of another file")
    saved.save(tmp_path / "model_final.logits.json")
    with pytest.raises(InputError, match="was written for another checkpoint than .* `balanced-lvis collect-logits`"):
        check_classification(logn_config(rendered, tmp_path), training=False)
    with pytest.raises(InputError, match="was written for another checkpoint"):
        Predictor.from_checkpoint(tmp_path / "model_final.pth", trained / "config.yaml", opts=[NAME, "logn"])
    saved.save(tmp_path / "chosen.json")
    option = ["MODEL.ROI_BOX_HEAD.CALIBRATION.LOGN.STATISTICS", tmp_path / "chosen.json"]
    check_classification(logn_config(rendered, tmp_path, *option), training=False)
    dataclasses.replace(saved, weights_sha256="").save(tmp_path / "model_final.logits.json")
    check_classification(logn_config(rendered, tmp_path), training=False)
    assert "doesn't state of which checkpoint it is" in caplog.text


def test_a_file_that_cannot_be_written_is_told_before_the_pass(rendered, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(logit_collection, "build_train_loader", lambda *_, **__: pytest.fail("the pass has started"))
    (tmp_path / "file").touch()
    words = [*rendered_opts(rendered, trained / "unused"), "MODEL.WEIGHTS", trained / "model_final.pth"]
    config = ["--config-file", str(CONFIGS / "rendered" / "rfs_softmax_logn.yaml")]
    output = ["--output", str(tmp_path / "file" / "x.json")]
    assert collect_logits([*config, *output, *map(str, words)]) == StorageError.exit_status
    assert "x.json' can't be written: a file has this name" in capsys.readouterr().err


def test_what_statistics_cannot_be_collected_of_is_told(rendered, trained):
    with pytest.raises(InputError, match="--images is -1"):
        collect_logit_statistics(logn_config(rendered, trained), -1)
    with pytest.raises(InputError, match="MODEL.WEIGHTS is empty; set it to a checkpoint"):
        collect_logit_statistics(logn_config(rendered, trained, "MODEL.WEIGHTS", ""))
    cascade = ["MODEL.ROI_HEADS.NAME", "LongTailCascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"]
    proposals = ["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"]
    with pytest.raises(InputError, match="reads precomputed proposals"):
        collect_logit_statistics(logn_config(rendered, trained, *proposals))
    with pytest.raises(InputError, match="'LongTailCascadeROIHeads' has no single classifier"):
        collect_logit_statistics(logn_config(rendered, trained, *cascade))


def test_the_prior_of_a_run_serves_fracal_and_an_older_one_is_refused_with_a_remedy(trained):
    make = lambda: Predictor.from_checkpoint(trained / "model_final.pth", opts=[NAME, "fracal"])  # noqa: E731
    dimension = make()._model.roi_heads.box_predictor.calibration.log_dimension
    assert dimension.shape == (K,) and dimension.max() > 0
    path = trained / SAVED_PRIOR
    content = json.loads(path.read_text())
    for record in content["classes"]:
        del record["fractal_dimension"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="needs the fractal dimension .* analyze-dataset DATASET --boxes"):
        make()
