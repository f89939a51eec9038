"""Whole models with the mask head: which of them take it, and that they compute the same."""

import copy

import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.utils.events import EventStorage

from balanced_lvis.modeling import ChosenClassMaskHead
from balanced_lvis.modeling.mask_head import with_chosen_class_masks


@pytest.mark.parametrize("name", ["LongTailROIHeads", "LongTailCascadeROIHeads"])
def test_our_roi_heads_use_it_for_detectron2s_default_unless_told_otherwise(tiny_cfg, name):
    tiny_cfg.MODEL.ROI_HEADS.NAME = name
    before = copy.deepcopy(tiny_cfg)
    tiny_cfg.freeze()
    assert type(build_model(tiny_cfg).roi_heads.mask_head) is ChosenClassMaskHead
    assert tiny_cfg == before
    tiny_cfg.defrost()
    tiny_cfg.MODEL.ROI_MASK_HEAD.CHOSEN_CLASS_ONLY = False
    assert type(build_model(tiny_cfg).roi_heads.mask_head) is MaskRCNNConvUpsampleHead


def test_another_mask_head_stays_what_it_is(tiny_cfg):
    tiny_cfg.MODEL.ROI_MASK_HEAD.NAME = "PointRendMaskHead"
    assert with_chosen_class_masks(tiny_cfg) is tiny_cfg


def test_models_without_masks_have_no_mask_head(tiny_cfg):
    tiny_cfg.MODEL.MASK_ON = False
    assert not build_model(tiny_cfg).roi_heads.mask_on


def test_detectron2s_roi_heads_take_it_by_name(tiny_cfg):
    tiny_cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    tiny_cfg.MODEL.ROI_MASK_HEAD.NAME = "ChosenClassMaskHead"
    heads_of_model = build_model(tiny_cfg).roi_heads
    assert type(heads_of_model) is StandardROIHeads
    assert type(heads_of_model.mask_head) is ChosenClassMaskHead


def models(cfg, **options):
    """The whole model with Detectron2's mask head and with ours, with the same weights."""
    for key, value in options.items():
        cfg.MODEL.ROI_HEADS[key] = value
    made = []
    for chosen_only in (False, True):
        cfg.MODEL.ROI_MASK_HEAD.CHOSEN_CLASS_ONLY = chosen_only
        made.append(build_model(cfg))
    stock, ours = made
    torch.nn.init.normal_(stock.roi_heads.mask_head.predictor.weight, std=0.1)
    ours.load_state_dict(stock.state_dict())
    return stock, ours


@pytest.mark.parametrize("name", ["LongTailROIHeads", "LongTailCascadeROIHeads"])
@pytest.mark.parametrize("agnostic", [False, True])
def test_a_step_of_the_whole_model_is_the_same(tiny_cfg, name, agnostic):
    tiny_cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = agnostic
    mapper = DatasetMapper(tiny_cfg, True)
    batch = [mapper(record) for record in DatasetCatalog.get("rendered_train")[:2]]
    found = []
    for model in models(tiny_cfg, NAME=name):
        torch.manual_seed(1)  # RoIs are sampled at random
        with EventStorage():
            losses = model.train()(batch)
        sum(losses.values()).backward()
        found.append((losses, {n: p.grad for n, p in model.named_parameters() if p.requires_grad}))
    (stock_losses, stock_gradients), (losses, gradients) = found
    assert losses["loss_mask"] > 0
    assert {n for n in losses if losses[n] != stock_losses[n]} <= {"loss_mask"}
    torch.testing.assert_close(losses, stock_losses)
    for parameter, gradient in stock_gradients.items():
        size = gradient.abs().max().item()
        torch.testing.assert_close(gradients[parameter], gradient, rtol=0, atol=1e-5 * size, msg=parameter)


def test_the_whole_models_detections_are_the_same(tiny_cfg):
    batch = [DatasetMapper(tiny_cfg, False)(record) for record in DatasetCatalog.get("rendered_val")[:2]]
    stock, ours = models(tiny_cfg, SCORE_THRESH_TEST=0.0)
    with torch.no_grad():
        found = [model.eval().inference(batch, do_postprocess=False) for model in (stock, ours)]
    for expected, instances in zip(*found):
        assert len(instances) > 0
        for field in ("scores", "pred_classes"):
            assert torch.equal(instances.get(field), expected.get(field))
        assert torch.equal(instances.pred_boxes.tensor, expected.pred_boxes.tensor)
        torch.testing.assert_close(instances.pred_masks, expected.pred_masks)
