"""The threshold of predicted masks: alike in evaluation, prediction and export, and without effect by default."""

import json

import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ROIMasks
from pycocotools import mask as mask_util

from balanced_lvis.evaluation import instance_rles, unpasted
from balanced_lvis.modeling.mask_threshold import ThresholdedMasks
from balanced_lvis.utils.errors import InputError
from tests.evaluation.test_model_outputs import pasted_results, records, unpasted_results, varied_model


def with_threshold(cfg, threshold, **options):
    cfg.TEST.MASK_THRESHOLD = threshold
    model = varied_model(cfg, **options)
    for name, parameter in model.named_parameters():
        if name.endswith("mask_head.predictor.weight"):
            torch.nn.init.normal_(parameter, std=0.1)  # values between the thresholds
    return model


def thresholded_by_detectron2(model, inputs, threshold):
    """Detectron2's own post-processing with its argument for the threshold, which its models don't pass."""
    with torch.no_grad():
        found = model.eval().inference(inputs, do_postprocess=False)
    results = []
    for instances, record in zip(found, inputs):
        if isinstance(instances.pred_masks, ROIMasks):
            instances.pred_masks = ROIMasks(instances.pred_masks.tensor)
        pasted = detector_postprocess(instances, record["height"], record["width"], threshold)
        results.append(instances_to_coco_json(pasted, record["image_id"]))
    return results


def area(results) -> int:
    return sum(int(mask_util.area(result["segmentation"])) for image in results for result in image)


@pytest.mark.parametrize("kind", ["standard", "cascade", "decoupled", "masks per class"])
@pytest.mark.parametrize("threshold", [0.4, 0.61])
def test_pasted_and_encoded_masks_have_the_threshold(tiny_cfg, kind, threshold):
    torch.manual_seed(0)
    model, inputs = with_threshold(tiny_cfg, threshold, kind=kind), records()
    expected = thresholded_by_detectron2(model, inputs, threshold)
    assert json.dumps(unpasted_results(model, inputs)) == json.dumps(expected)
    assert json.dumps(pasted_results(model, inputs)) == json.dumps(expected)
    default = area(thresholded_by_detectron2(model, inputs, 0.5))
    assert area(expected) > default if threshold < 0.5 else area(expected) < default


@pytest.mark.parametrize("chosen_class_only", [True, False])
def test_the_default_changes_nothing(tiny_cfg, chosen_class_only):
    """Masks are the plain tensor of Detectron2's mask head."""
    tiny_cfg.MODEL.ROI_MASK_HEAD.CHOSEN_CLASS_ONLY = chosen_class_only
    assert tiny_cfg.TEST.MASK_THRESHOLD == 0.5
    model, inputs = varied_model(tiny_cfg).eval(), records()
    with torch.no_grad():
        assert all(type(found.pred_masks) is torch.Tensor for found in model.inference(inputs, do_postprocess=False))
    assert pasted_results(model, inputs) == thresholded_by_detectron2(model, inputs, 0.5)


def test_a_model_without_masks_has_no_use_for_it(tiny_cfg):
    model = with_threshold(tiny_cfg, 0.4, kind="boxes")
    assert all(unpasted_results(model, records()))


def test_masks_keep_the_threshold_when_they_are_chosen_and_moved():
    masks = ThresholdedMasks(torch.rand(4, 7, 7), 0.3)
    assert masks[1:].to("cpu")[torch.tensor([True, False, True])].threshold == 0.3
    assert len(masks[1:]) == 3


def test_masks_are_encoded_with_their_own_threshold(tiny_cfg):
    model = with_threshold(tiny_cfg, 0.4)
    with torch.no_grad(), unpasted(model) as detect:
        found = detect(records())[0]["instances"]
    low = instance_rles(found)
    found.pred_masks = ROIMasks(found.pred_masks.tensor)
    assert mask_util.area(low).sum() > mask_util.area(instance_rles(found)).sum()


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, float("nan")])
def test_thresholds_outside_of_0_and_1_are_refused(tiny_cfg, threshold):
    tiny_cfg.TEST.MASK_THRESHOLD = threshold
    with pytest.raises(InputError, match="TEST.MASK_THRESHOLD is"):
        build_model(tiny_cfg)
