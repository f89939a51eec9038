"""The box predictor against Detectron2's own on the same parameters and inputs."""

import copy
import os
import shutil

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from balanced_lvis.config import default_config
from balanced_lvis.modeling import ActivationOutputLayers
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.run_files import SAVED_PRIOR

K = 7


@pytest.fixture
def cfg(tmp_path):
    path = tmp_path / "prior.json"
    ClassPrior(tuple("abcdefg"), [1, 3, 9, 20, 60, 200, 400], 500).save(path)
    cfg = default_config()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = K
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.01
    cfg.MODEL.CLASS_PRIOR.FILE = str(path)
    cfg.DATASETS.TRAIN = ()
    return cfg


def predictor(cfg, activation):
    cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME = activation
    return ActivationOutputLayers(cfg, ShapeSpec(channels=16))


def trainable(cfg, activation):
    """A predictor that has looked up the class prior, as before training."""
    layer = predictor(cfg, activation)
    layer.activation.prepare()
    return layer


def stock_like(ours, cfg, **options):
    stock = FastRCNNOutputLayers(cfg, ShapeSpec(channels=16), **options)
    stock.load_state_dict(ours.state_dict())
    return stock


def proposals(sizes=(30, 0, 20), seed=0):
    """One ``Instances`` per image; the second has no objects, as images without annotations do."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for size in sizes:
        corner = torch.rand(size, 2, generator=generator) * 60
        boxes = torch.cat([corner, corner + 5 + torch.rand(size, 2, generator=generator) * 30], 1)
        gt_classes = torch.randint(0, K + 1, (size,), generator=generator)
        fields = {"proposal_boxes": Boxes(boxes), "gt_classes": gt_classes}
        if size:
            fields["gt_boxes"] = Boxes(boxes + 2)
        out.append(Instances((100, 100), **fields))
    return out


def run_losses(layer, features, batch):
    with EventStorage():
        return layer.losses(layer(features), batch)


@pytest.mark.parametrize("activation", ["sigmoid", "balanced_sigmoid", "softmax", "balanced_softmax"])
def test_parameters_have_detectron2s_names_and_shapes(cfg, activation):
    ours = predictor(cfg, activation).state_dict()
    stock = FastRCNNOutputLayers(cfg, ShapeSpec(channels=16)).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in stock.items()}


@pytest.mark.parametrize(("activation", "use_sigmoid_ce"), [("sigmoid", True), ("softmax", False)])
def test_plain_activations_equal_detectron2_in_losses_gradients_and_detections(cfg, activation, use_sigmoid_ce):
    ours = predictor(cfg, activation)
    torch.nn.init.normal_(ours.cls_score.weight, std=0.5)
    stock = stock_like(ours, cfg, use_sigmoid_ce=use_sigmoid_ce)
    features = torch.randn(50, 16)
    batch = proposals()
    found, expected = run_losses(ours, features, batch), run_losses(stock, features, batch)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-7)
    sum(found.values()).backward()
    sum(expected.values()).backward()
    torch.testing.assert_close(ours.cls_score.weight.grad, stock.cls_score.weight.grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours.bbox_pred.weight.grad, stock.bbox_pred.weight.grad)
    with torch.no_grad():
        (ours_found, _), (stock_found, _) = (layer.inference(layer(features), batch) for layer in (ours, stock))
    assert sum(map(len, stock_found)) > 0
    for a, b in zip(ours_found, stock_found):
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
        assert torch.equal(a.pred_classes, b.pred_classes)
        assert torch.equal(a.scores, b.scores)


def test_balancing_changes_training_and_not_inference(cfg):
    plain = predictor(cfg, "sigmoid")
    balanced = predictor(copy.deepcopy(cfg), "balanced_sigmoid")
    balanced.load_state_dict(plain.state_dict())
    features, batch = torch.randn(50, 16), proposals()
    assert run_losses(plain, features, batch)["loss_cls"] != run_losses(balanced, features, batch)["loss_cls"]
    with torch.no_grad():
        a = plain.inference(plain(features), batch)[0]
        b = balanced.inference(balanced(features), batch)[0]
    assert all(torch.equal(x.scores, y.scores) for x, y in zip(a, b))


def test_a_batch_without_rois_gives_zero_losses_with_gradients(cfg):
    layer = predictor(cfg, "balanced_sigmoid")
    losses = run_losses(layer, torch.zeros(0, 16), proposals((0, 0)))
    sum(losses.values()).backward()
    assert [loss.item() for loss in losses.values()] == [0, 0]
    assert layer.cls_score.weight.grad is not None


def test_foreground_accuracy_ignores_the_unused_unit(cfg):
    layer = predictor(cfg, "sigmoid")
    logits = torch.full((4, K + 1), -5.0)
    logits[0, 2] = logits[1, 3] = 1
    logits[:, K] = 9
    batch = proposals((4,))
    batch[0].gt_classes = torch.tensor([2, 0, K, K])
    with EventStorage() as storage:
        layer.losses((logits, torch.zeros(4, K * 4)), batch)
    assert storage.latest()["fast_rcnn/fg_cls_accuracy"][0] == 0.5


@pytest.fixture
def registered():
    def load():
        return [{"image_id": 1, "annotations": [{"category_id": 0}]}, {"image_id": 2, "annotations": []}]

    DatasetCatalog.register("two_pets", load)
    MetadataCatalog.get("two_pets").thing_classes = ["cat", "dog"]
    yield
    DatasetCatalog.remove("two_pets")
    MetadataCatalog.remove("two_pets")


def test_priors_come_from_the_annotations_of_any_registered_data_set(cfg, registered):
    cfg.DATASETS.TRAIN = ("two_pets",)
    cfg.MODEL.CLASS_PRIOR.FILE = ""
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.BALANCED_SIGMOID.FORM = "foreground"
    offset = predictor(cfg, "balanced_sigmoid").activation.offset
    assert offset.tolist() == [0, 0]  # one image is trained on: half an image less than all, and half an image
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    offset = predictor(cfg, "balanced_sigmoid").activation.offset
    torch.testing.assert_close(offset, torch.log(torch.tensor([1.0, 3.0])))  # f = 1/2, and half an image of two


def test_a_prior_of_other_classes_is_an_error_that_names_both(cfg, registered):
    cfg.DATASETS.TRAIN = ("two_pets",)
    with pytest.raises(InputError, match=r"7 classes, dataset 'two_pets' has 2.* MODEL.CLASS_PRIOR.FILE .*json\."):
        trainable(cfg, "balanced_sigmoid")
    beside = os.path.join(os.path.dirname(cfg.MODEL.CLASS_PRIOR.FILE), SAVED_PRIOR)
    cfg.MODEL.CLASS_PRIOR.FILE = shutil.copy(cfg.MODEL.CLASS_PRIOR.FILE, beside)
    cfg.MODEL.WEIGHTS = os.path.join(os.path.dirname(beside), "model_final.pth")
    with pytest.raises(InputError, match=r"next to MODEL.WEIGHTS: is that a checkpoint for this dataset\?"):
        trainable(cfg, "balanced_sigmoid")
    cfg.MODEL.CLASS_PRIOR.FILE = ""
    with pytest.raises(InputError, match=r"NUM_CLASSES is 7, but dataset two_pets has 2 classes; set it to 2"):
        trainable(cfg, "balanced_sigmoid")


def test_no_source_for_a_prior_is_an_error(cfg):
    cfg.MODEL.CLASS_PRIOR.FILE = ""
    with pytest.raises(InputError, match="DATASETS.TRAIN"):
        trainable(cfg, "balanced_sigmoid")


def test_lvis_priors_come_from_detectron2s_metadata(cfg):
    cfg.MODEL.CLASS_PRIOR.FILE = ""
    cfg.DATASETS.TRAIN = ("lvis_v1_train",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1203
    cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.BALANCED_SIGMOID.FORM = "foreground"
    offset = predictor(cfg, "balanced_sigmoid").activation.offset
    assert offset.shape == (1203,)
    assert offset.max().item() == pytest.approx(11.507, abs=0.001)  # one image in 99,388


def test_a_prior_is_checked_against_names_that_a_loader_sets_as_it_loads(cfg, tmp_path):
    def load():
        MetadataCatalog.get("late").thing_classes = ["cat", "dog"]
        return []

    (tmp_path / "late.json").touch()
    DatasetCatalog.register("late", load)
    MetadataCatalog.get("late").json_file = str(tmp_path / "late.json")
    cfg.DATASETS.TRAIN = ("late",)
    try:
        with pytest.raises(InputError, match="dataset 'late' has 2"):
            trainable(cfg, "balanced_sigmoid")
    finally:
        DatasetCatalog.remove("late")
        MetadataCatalog.remove("late")


@pytest.mark.parametrize("key", ["USE_FED_LOSS", "USE_SIGMOID_CE"])
def test_detectron2s_own_loss_switches_are_refused(cfg, key):
    cfg.MODEL.ROI_BOX_HEAD[key] = True
    with pytest.raises(InputError, match=f"{key} is True"):
        predictor(cfg, "sigmoid")


def test_an_unknown_activation_lists_the_valid_ones(cfg):
    with pytest.raises(
        InputError, match=r"'balancedsigmoid'.*Valid: .*balanced_sigmoid, balanced_softmax, class_balanced"
    ):
        predictor(cfg, "balancedsigmoid")


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        (
            "scores",
            lambda logits: logits[:, :3].sigmoid(),
            r"Sigmoid.scores returned shape \(50, 3\).*is \(50, 8\) here",
        ),
        ("scores", lambda logits: logits.sum(1), r"Sigmoid.scores returned shape \(50,\)"),
        ("loss", lambda logits, gt_classes, roi_weight: logits, r"Sigmoid.loss returned shape \(50, 8\).*a scalar"),
        ("num_outputs", K + 2, "The classifier of Sigmoid has 8 outputs, but its num_outputs is 9"),
    ],
)
def test_an_activation_that_breaks_the_contract_is_an_input_error(cfg, monkeypatch, member, value, message):
    layer, images = predictor(cfg, "sigmoid"), proposals()
    monkeypatch.setattr(type(layer.activation), member, staticmethod(value) if callable(value) else value)
    predictions = layer(torch.randn(50, 16))
    with pytest.raises(InputError, match=message), EventStorage():
        layer.losses(predictions, images)
        layer.inference(predictions, images)


@pytest.mark.parametrize("name", ["use_fed_loss", "use_sigmoid_ce"])
def test_the_constructor_refuses_other_losses_too(cfg, name):
    cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME = "softmax"
    with pytest.raises(InputError, match=f"{name} is True, but the loss is that of the activation"):
        ActivationOutputLayers(cfg, ShapeSpec(channels=16), **{name: True})
