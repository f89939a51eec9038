"""Several calibrations in one pass, each against the model with that calibration alone."""

import pytest
import torch
from detectron2.modeling import ROI_HEADS_REGISTRY, build_model
from detectron2.structures import Boxes, Instances

from balanced_lvis.calibration import build_calibration
from balanced_lvis.config import load_config
from balanced_lvis.modeling import GridDetector, LongTailROIHeads, grid_detector
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from tests.common import CONFIGS, rendered_opts

K = 12
PRIOR = ClassPrior(tuple("abcdefghijkl"), [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 200], 300)
KINDS = {
    "agnostic": {},
    "class_boxes": {"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": False},
    "class_masks": {"MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": False},
    "class_boxes_and_masks": {
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": False,
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": False,
    },
    "detectron2s_mask_head": {
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": False,
        "MODEL.ROI_MASK_HEAD.CHOSEN_CLASS_ONLY": False,
    },
    "boxes_only": {"MODEL.MASK_ON": False},
    "cascade": {"MODEL.ROI_HEADS.NAME": "LongTailCascadeROIHeads"},
    "few": {"TEST.DETECTIONS_PER_IMAGE": 5},
    "all": {"TEST.DETECTIONS_PER_IMAGE": -1},
    "nothing": {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 1.0},
    "sigmoid": {"MODEL.ROI_BOX_HEAD.ACTIVATION.NAME": "sigmoid"},
}


def model_of(rendered, changes):
    """A model with random weights that finds objects of all classes."""
    opts = [*rendered_opts(rendered, "unused"), *(word for pair in changes.items() for word in pair)]
    torch.manual_seed(0)
    model = build_model(load_config(CONFIGS / "rendered" / "rfs_softmax.yaml", opts)).eval()
    for predictor in model.roi_heads.box_predictors:
        torch.nn.init.normal_(predictor.cls_score.weight, std=0.5)
        torch.nn.init.normal_(predictor.bbox_pred.weight, std=0.2)
    return model


def calibrations():
    adjusted = [build_calibration("logit_adjustment", K, PRIOR, tau=tau) for tau in (0.0, 0.5, 2.0)]
    return [None, *adjusted, None]


def inputs(number=2):
    generator = torch.Generator().manual_seed(1)
    return [{"image": torch.randint(256, (3, 96, 96), generator=generator, dtype=torch.uint8)} for _ in range(number)]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_detections_are_those_of_each_calibration_alone(rendered, kind):
    model, chosen = model_of(rendered, KINDS[kind]), calibrations()
    found = GridDetector(model, chosen)(inputs())
    number = 0
    for index, calibration in enumerate(chosen):
        for predictor in model.roi_heads.box_predictors:
            predictor.calibration = calibration
        for one, expected in zip(found, model.inference(inputs(), do_postprocess=False)):
            regions, scores, classes = one.selections[index]
            assert torch.equal(one.regions.pred_boxes.tensor[regions], expected.pred_boxes.tensor)
            assert torch.equal(scores, expected.scores) and torch.equal(classes, expected.pred_classes)
            assert one.regions.has("pred_masks") == expected.has("pred_masks") == (kind != "boxes_only")
            if kind != "boxes_only":  # up to rounding, as a convolution of few RoIs adds in another order
                torch.testing.assert_close(
                    one.regions.pred_masks[regions], expected.pred_masks, atol=1e-6, rtol=0, check_stride=False
                )
            number += len(expected)
    assert (number == 0) == (kind == "nothing")


@pytest.mark.parametrize("kind", ["agnostic", "class_boxes_and_masks", "boxes_only"])
@torch.no_grad()
def test_without_the_classes_that_do_not_count_the_other_detections_are_the_same(rendered, kind):
    model, asked = model_of(rendered, KINDS[kind]), []

    def select(image_id, classes):
        asked.append(image_id)
        return classes % 4 == image_id % 4

    records = [{**record, "image_id": 7 + number} for number, record in enumerate(inputs())]
    full, part = GridDetector(model, calibrations())(records), GridDetector(model, calibrations(), select)(records)
    assert sorted(asked) == [7] * 5 + [8] * 5
    numbers = []
    for record, of_all, of_some in zip(records, full, part):
        assert 0 < len(of_some.regions) < len(of_all.regions)
        for expected, found in zip(of_all.selections, of_some.selections):
            kept = select(record["image_id"], expected.classes)
            assert torch.equal(found.classes, expected.classes[kept])
            assert torch.equal(found.scores, expected.scores[kept])
            numbers.append((len(found.classes), len(kept)))
            places = expected.regions[kept]
            boxes = [each.regions.pred_boxes.tensor for each in (of_some, of_all)]
            assert torch.equal(boxes[0][found.regions], boxes[1][places])
            if kind != "boxes_only":
                torch.testing.assert_close(
                    of_some.regions.pred_masks[found.regions], of_all.regions.pred_masks[places], atol=1e-6, rtol=0
                )
    assert 0 < sum(found for found, _ in numbers) < sum(number for _, number in numbers) / 2


@torch.no_grad()
def test_calibrations_differ_and_share_their_masks(rendered):
    model = model_of(rendered, KINDS["class_masks"])
    (found,) = GridDetector(model, calibrations())(inputs(1))
    none, _, _, strong, again = found.selections
    assert set(none.regions.tolist()) != set(strong.regions.tolist())
    assert all(torch.equal(a, b) for a, b in zip(none, again))
    used = torch.cat([selection.regions for selection in found.selections])
    assert used.unique().tolist() == list(range(len(found.regions)))  # no mask is computed in vain
    assert len(found.regions) < len(used) / 2


def test_regions_are_distinct_boxes_where_masks_do_not_depend_on_the_class(rendered):
    boxes = torch.tensor([[0.0, 0, 9, 9], [1, 1, 5, 5], [0, 0, 9, 9]])
    found = [Instances((20, 20), pred_boxes=Boxes(boxes), scores=torch.ones(3), pred_classes=torch.tensor([3, 1, 2]))]
    assert len(grid_detector._shared(found, by_class=True).regions) == 3
    shared = grid_detector._shared(found, by_class=False)
    assert shared.selections[0].regions.tolist() == [0, 1, 0] and shared.selections[0].classes.tolist() == [3, 1, 2]
    heads = [model_of(rendered, KINDS[kind]).roi_heads for kind in ("agnostic", "class_masks", "boxes_only")]
    assert list(map(grid_detector._masks_depend_on_class, heads)) == [False, True, False]


@torch.no_grad()
def test_the_calibration_of_the_model_is_kept(rendered):
    model = model_of(rendered, {})
    own = model.roi_heads.box_predictor.calibration = calibrations()[1]
    detector = GridDetector(model, calibrations())
    detector(inputs(1))
    assert model.roi_heads.box_predictor.calibration is own

    class Broken(type(own)):
        def scores(self, activation, logits):
            raise InputError("no scores")

    with pytest.raises(InputError, match="no scores"):
        GridDetector(model, [Broken(K, PRIOR)])(inputs(1))
    assert model.roi_heads.box_predictor.calibration is own


def test_a_model_that_detects_otherwise_is_refused(rendered, monkeypatch):
    class OtherHeads(LongTailROIHeads):
        def _forward_box(self, features, proposals):
            return super()._forward_box(features, proposals)

    monkeypatch.setitem(ROI_HEADS_REGISTRY._obj_map, "OtherHeads", OtherHeads)
    with pytest.raises(InputError, match="the model is a GeneralizedRCNN with OtherHeads; evaluate it once per"):
        GridDetector(model_of(rendered, {"MODEL.ROI_HEADS.NAME": "OtherHeads"}), [None])
    with pytest.raises(InputError, match="the model is a Linear with NoneType"):
        GridDetector(torch.nn.Linear(1, 1), [None])
