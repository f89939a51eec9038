"""Every calibration in image classification, whose activations have no background."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from balanced_lvis.calibration import LogitStatistics, calibration_names
from balanced_lvis.classification import evaluate
from balanced_lvis.classification.model import build_model
from balanced_lvis.classification.run import collect_logits, dataset_from_config, training_set
from balanced_lvis.commands.train_classifier import main
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.io import sha256_of
from tests import reference_calibration as naive
from tests.classification.made import characters_config, characters_opts

K = 4


@pytest.fixture
def trained(first_stage, tmp_path):
    """A copy of the checkpoint, next to which statistics are written."""
    (tmp_path / "trained").mkdir()
    return Path(shutil.copy(first_stage, tmp_path / "trained"))


def config(name, cache, folder, weights, **options):
    return characters_config(
        "softmax", cache, folder, MODEL__WEIGHTS=weights, MODEL__CALIBRATION__NAME=name, **options
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in calibration_names() if name != "fracal"])
def test_a_model_is_evaluated_with_each_calibration(name, cache, trained, tmp_path):
    cfg = config(name, cache, tmp_path, trained)
    if name == "logn":
        with pytest.raises(InputError, match="statistics of logn is empty"):
            evaluate(cfg)
        collect_logits(cfg)
    results = evaluate(cfg)
    assert results["test_images"] == 20 and abs(sum(results["marginal"]) - 1) < 1e-6


def test_scores_are_those_of_the_classes_alone(cache, trained, tmp_path):
    cfg = config("norcal", cache, tmp_path, trained)
    images = training_set(cfg, dataset_from_config(cfg))
    logits = torch.randn(3, K, dtype=torch.float64)
    found = build_model(cfg, K, images.prior).scores(logits)
    np.testing.assert_allclose(found, naive.norcal_softmax(logits.tolist(), images.counts(), 0.6), atol=1e-6)


def test_fracal_tells_that_images_have_no_boxes(cache, trained, tmp_path):
    with pytest.raises(InputError, match="image classification has none"):
        evaluate(config("fracal", cache, tmp_path, trained))


def test_statistics_are_of_the_training_images(cache, trained, tmp_path):
    cfg = config("", cache, tmp_path, trained)
    found = collect_logits(cfg)
    images = training_set(cfg, dataset_from_config(cfg))
    model = build_model(cfg, K, images.prior).eval()
    model.load_state_dict(torch.load(trained, weights_only=True)["model"])
    with torch.no_grad():
        batch = torch.from_numpy(np.stack(list(images.images))).permute(0, 3, 1, 2)
        logits = model(batch).double().numpy()
    np.testing.assert_allclose(found.mean, logits.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.std, logits.std(axis=0, ddof=1), atol=1e-5)
    assert (found.num_rois, found.class_names) == (len(images), images.class_names)


def test_the_command_collects_them(cache, trained, tmp_path):
    words = ["--config-file", "classification/characters/softmax", "--collect-logits"]
    opts = characters_opts(cache, tmp_path / "out", MODEL__WEIGHTS=trained)
    path = trained.with_name("model_final.logits.json")
    assert not main([*words, *opts])
    assert len(LogitStatistics.load(path).mean) == K
    assert main([*words, "--resume", *opts]) == 2


def test_statistics_of_other_classes_are_refused(cache, trained, tmp_path):
    LogitStatistics(tuple("abcd"), [0, 1, 2, 3], [1] * K, 9).save(tmp_path / "others.json")
    options = {"MODEL__CALIBRATION__LOGN__STATISTICS": tmp_path / "others.json"}
    with pytest.raises(InputError, match="of other classes than the training set"):
        evaluate(config("logn", cache, tmp_path, trained, **options))


def test_statistics_of_an_earlier_training_are_refused(cache, trained, tmp_path):
    cfg = config("logn", cache, tmp_path, trained)
    saved = collect_logits(cfg)
    assert saved.weights_sha256 == sha256_of(trained)
    path = trained.with_name("model_final.logits.json")
    dataclasses.replace(saved, weights_sha256="of another file").save(path)
    with pytest.raises(InputError, match="was written for another checkpoint than .* train-classifier --collect-log"):
        evaluate(cfg)


def test_what_does_not_fit_the_activation_is_refused(cache, trained, tmp_path):
    with pytest.raises(InputError, match="'iif' can't be combined with activation 'sigmoid'"):
        build_model(config("iif", cache, tmp_path, trained, MODEL__ACTIVATION__NAME="sigmoid"), K)
