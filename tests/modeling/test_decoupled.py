import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from balanced_lvis.config import load_config
from balanced_lvis.modeling import ClassifierInputs
from balanced_lvis.modeling.decoupled import CLASSIFIER, CLASSIFIER_STAGES, ScaledLinear
from balanced_lvis.utils.errors import InputError
from tests import reference
from tests.common import CONFIGS, rendered_opts

TRAINED = {
    "retrain": {f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias"},
    "finetune": {f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias"},
    "rescale": {f"{CLASSIFIER}.scale"},
}


@pytest.fixture
def cfg(rendered, tmp_path):
    return load_config(CONFIGS / "rendered" / "crt.yaml", rendered_opts(rendered, tmp_path / "out"))


@pytest.fixture
def batch(cfg, rendered):
    mapper = DatasetMapper(cfg, True)
    return [mapper(record) for record in DatasetCatalog.get("rendered_train")[:2]]


def decoupled(cfg, classifier="retrain"):
    cfg.MODEL.DECOUPLED.CLASSIFIER = classifier
    return build_model(cfg)


def full_model_of(model, cfg):
    """``GeneralizedRCNN`` with the weights of a decoupled one."""
    cfg = cfg.clone()
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    full = build_model(cfg)
    full.load_state_dict(model.state_dict())
    return full


@pytest.mark.parametrize("classifier", list(CLASSIFIER_STAGES))
def test_only_the_classifier_gets_gradients(cfg, batch, classifier):
    model = decoupled(cfg, classifier).train()
    assert {n for n, p in model.named_parameters() if p.requires_grad} == TRAINED[classifier]
    with EventStorage():
        losses = model(batch)
    assert set(losses) == {"loss_cls"}
    losses["loss_cls"].backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == TRAINED[classifier]


def test_the_loss_and_its_gradient_are_those_of_the_full_model(cfg, batch):
    """With all RoIs sampled, so that none are chosen at random, and batch statistics frozen in both."""
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 100_000
    cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = 1.0
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN, cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 60, 10
    model = decoupled(cfg).train()
    nn.init.normal_(model.classifier.weight, std=0.3)
    full = full_model_of(model, cfg).train()
    for module in full.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with EventStorage():
        ours, theirs = model(batch)["loss_cls"], full(batch)["loss_cls"]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours.backward()
    theirs.backward()
    full_gradient = full.roi_heads.box_predictor.cls_score.weight.grad
    torch.testing.assert_close(model.classifier.weight.grad, full_gradient, rtol=1e-4, atol=1e-6)


def test_inference_is_the_full_models(cfg, batch):
    model = decoupled(cfg)
    nn.init.normal_(model.classifier.weight, std=0.3)
    full = full_model_of(model, cfg)
    model.train()
    with EventStorage():
        model(batch)  # what training borrows of the RPN is given back
    with torch.no_grad():
        ours, theirs = model.eval()(batch), full.eval()(batch)
    for a, b in zip(ours, theirs):
        assert len(a["instances"]) > 0
        assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
        assert torch.equal(a["instances"].scores, b["instances"].scores)
        assert torch.equal(a["instances"].pred_masks, b["instances"].pred_masks)


def test_frozen_parts_stay_in_evaluation_mode(cfg):
    model = decoupled(cfg)
    model.train()
    assert model.training
    assert model.classifier.training
    training = {name for name, module in model.named_modules() if module.training}
    assert training == {"", CLASSIFIER}
    model.eval()
    assert not any(module.training for module in model.modules())


def test_features_that_are_there_already_are_taken_as_they_are(cfg, batch):
    model = decoupled(cfg).train()
    with EventStorage():
        inputs = model.classifier_inputs(batch)
        assert not inputs.features.requires_grad
        assert inputs.features.shape == (len(inputs.gt_classes), 256)
        plain = model(inputs)["loss_cls"]
        ones = model(inputs._replace(roi_weight=torch.ones(len(inputs.gt_classes))))["loss_cls"]
        none = model(inputs._replace(roi_weight=torch.zeros(len(inputs.gt_classes))))["loss_cls"]
        empty = model(ClassifierInputs(inputs.features[:0], inputs.gt_classes[:0]))["loss_cls"]
    assert torch.equal(plain, ones)
    assert none == empty == 0
    empty.backward()


def test_images_without_objects_are_all_background(cfg, batch):
    model = decoupled(cfg).train()
    empty = [{**record, "instances": record["instances"][:0]} for record in batch]
    with EventStorage():
        inputs = model.classifier_inputs(empty)
    assert len(inputs.gt_classes) > 0
    assert set(inputs.gt_classes.tolist()) == {12}


@pytest.mark.parametrize("form", ["logits", "weights"])
def test_scaled_logits_are_those_of_the_naive_loops(form):
    layer = ScaledLinear(nn.Linear(3, 5).double(), form)
    x = torch.randn(4, 3, dtype=torch.float64)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias)), "scales of 1 change nothing"
    nn.init.normal_(layer.scale)
    arrays = (t.detach().numpy() for t in (x, layer.weight, layer.bias, layer.scale))
    np.testing.assert_allclose(layer(x).detach(), reference.scaled_logits(*arrays, form), rtol=1e-12)


@pytest.mark.parametrize(("form", "shift"), [("logits", -0.9), ("weights", 0.0)])
def test_a_scale_moves_a_sigmoids_bias_in_one_form_only(form, shift):
    """Of a RoI whose features say nothing, by the bias of a prior probability of 0.001."""
    linear = nn.Linear(3, 1)
    nn.init.constant_(linear.bias, -6.9068)
    layer = ScaledLinear(linear, form)
    nn.init.constant_(layer.scale, 1.13)
    assert layer(torch.zeros(1, 3)).item() == pytest.approx(-6.9068 + shift, abs=0.01)


@pytest.mark.parametrize("path", ["r50_lws", "r101_lws", "rendered/lws"])
def test_configs_have_the_form_of_the_released_detector(path):
    assert load_config(CONFIGS / f"{path}.yaml").MODEL.DECOUPLED.SCALE_FORM == "weights"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"MODEL.DECOUPLED.CLASSIFIER": "crt"}, "'crt'; valid: retrain, finetune, rescale"),
        (
            {"MODEL.DECOUPLED.CLASSIFIER": "rescale", "MODEL.DECOUPLED.SCALE_FORM": "bias"},
            "'bias'; valid: logits, weights",
        ),
        ({"MODEL.ROI_HEADS.NAME": "LongTailCascadeROIHeads"}, "NAME is LongTailCascadeROIHeads"),
        ({"MODEL.ROI_HEADS.NAME": "StandardROIHeads"}, "NAME is StandardROIHeads"),
    ],
)
def test_bad_input_is_explained(cfg, overrides, expected):
    cfg.merge_from_list([word for pair in overrides.items() for word in pair])
    with pytest.raises(InputError, match=expected):
        build_model(cfg)
