"""Evaluation without pasting gives what Detectron2's own path gives, file for file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.layers import mask_ops
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances, ROIMasks
from torch import nn

from balanced_lvis.engine.trainer import Trainer
from balanced_lvis.evaluation import LVISEvaluator, instance_rles, unpasted
from balanced_lvis.evaluation.model_outputs import at_output_size, instances_to_arrays

KINDS = {
    "standard": {},
    "cascade": {"MODEL.ROI_HEADS.NAME": "LongTailCascadeROIHeads"},
    "decoupled": {"MODEL.META_ARCHITECTURE": "DecoupledRCNN"},
    "boxes": {"MODEL.MASK_ON": False},
    "masks per class": {"MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": False},
}


def varied_model(cfg, kind="standard"):
    """Random weights, with masks that are neither flat nor all alike and boxes that leave their proposals."""
    cfg.merge_from_list([word for pair in KINDS[kind].items() for word in pair])
    model = build_model(cfg)
    for name, parameter in model.named_parameters():
        if name.endswith(("mask_head.predictor.weight", "bbox_pred.weight")):
            nn.init.normal_(parameter, std=1.0 if "mask" in name else 0.05)
    return model


def records(sizes=((96, 96), (150, 77), (31, 200))):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 255, (len(sizes), 3, 96, 96), dtype=np.uint8))
    return [
        {"image": image, "image_id": i, "height": height, "width": width}
        for i, (image, (height, width)) in enumerate(zip(images, sizes))
    ]


def pasted_results(model, inputs) -> list[list[dict]]:
    """Detectron2's own path."""
    model.eval()
    with torch.no_grad():
        outputs = model(inputs)
    return [instances_to_coco_json(o["instances"], r["image_id"]) for o, r in zip(outputs, inputs)]


def to_results(instances, image_id: int) -> list[dict]:
    """What Detectron2's ``instances_to_coco_json`` makes of the same."""
    boxes, scores, classes, rles = instances_to_arrays(instances)
    results = [
        {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
        for category, box, score in zip(classes.tolist(), boxes.tolist(), scores.tolist())
    ]
    for result, rle in zip(results, rles or ()):
        result["segmentation"] = rle
    return results


def unpasted_results(model, inputs) -> list[list[dict]]:
    with torch.no_grad(), unpasted(model) as detect:
        outputs = detect(inputs)
    return [to_results(o["instances"], r["image_id"]) for o, r in zip(outputs, inputs)]


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_those_of_pasted_masks(tiny_cfg, kind):
    model, inputs = varied_model(tiny_cfg, kind), records()
    found = unpasted_results(model, inputs)
    expected = pasted_results(model, inputs)
    assert json.dumps(found) == json.dumps(expected)
    assert all(expected)
    assert kind == "boxes" or len({r["segmentation"]["counts"] for r in expected[0]}) > 10


def test_records_without_an_output_size_are_given_that_of_the_input(tiny_cfg):
    model = varied_model(tiny_cfg)
    inputs = [{key: record[key] for key in ("image", "image_id")} for record in records()]
    assert unpasted_results(model, inputs) == pasted_results(model, inputs)


@pytest.mark.parametrize("output", [(60, 80), (123, 77), (480, 640), (7, 900)])
def test_boxes_are_scaled_clipped_and_dropped_as_detectron2_does(output):
    rng = np.random.default_rng(0)
    corner = rng.uniform(-40, 100, (80, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(-5, 60, (80, 2))], axis=1)

    def raw():
        return Instances(
            (60, 80),
            pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32)),
            scores=torch.linspace(1, 0, 80),
            pred_classes=torch.arange(80),
            pred_masks=torch.rand(80, 1, 28, 28, generator=torch.Generator().manual_seed(0)),
        )

    expected = instances_to_coco_json(detector_postprocess(raw(), *output), 3)
    found = at_output_size(raw(), dict(zip(("height", "width"), output)))
    assert 0 < len(found) < 80
    assert isinstance(found.pred_masks, ROIMasks)
    assert to_results(found, 3) == expected


def test_masks_of_image_size_are_encoded_as_detectron2_does(tiny_cfg):
    model = varied_model(tiny_cfg).eval()
    with torch.no_grad():
        instances = model(records())[1]["instances"]
    expected = [result["segmentation"] for result in instances_to_coco_json(instances, 0)]
    assert instance_rles(instances) == expected


def test_images_without_detections_have_no_results(tiny_cfg):
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 1.0
    assert unpasted_results(varied_model(tiny_cfg), records()) == [[], [], []]


def test_the_model_itself_still_pastes_and_trains_on(tiny_cfg):
    model, inputs = varied_model(tiny_cfg).train(), records()
    with torch.no_grad(), unpasted(model) as detect:
        assert not model.training
        detect(inputs)
        assert model(inputs)[1]["instances"].pred_masks.shape[1:] == (150, 77)
    assert model.training


def test_a_model_in_ddp_is_taken_out_of_it(tiny_cfg, tmp_path):
    model, inputs = varied_model(tiny_cfg), records()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        assert unpasted_results(wrapped, inputs) == pasted_results(model, inputs)
    finally:
        torch.distributed.destroy_process_group()


class OwnInference(GeneralizedRCNN):
    def inference(self, batched_inputs):
        return super().inference(batched_inputs)


@pytest.mark.parametrize("model", [nn.Linear(1, 1), OwnInference.__new__(OwnInference)], ids=["other", "own inference"])
def test_a_model_with_an_inference_of_its_own_is_left_alone(model):
    with unpasted(model) as detect:
        assert detect is model


# ------------------------------------------------------------------ a whole evaluation


def refuse_to_paste(*args, **kwargs):
    raise AssertionError("pasted")


@pytest.mark.parametrize("kind", ["standard", "decoupled", "boxes"])
def test_an_evaluation_writes_what_it_wrote_with_pasted_masks(tiny_cfg, tmp_path, monkeypatch, kind):
    model = varied_model(tiny_cfg, kind)
    name = tiny_cfg.DATASETS.TEST[0]
    stock = tmp_path / "stock"
    evaluator = LVISEvaluator(name, str(stock))
    expected = inference_on_dataset(model, Trainer.build_test_loader(tiny_cfg, name), evaluator)
    monkeypatch.setattr(mask_ops, "paste_masks_in_image", refuse_to_paste)
    found = Trainer.test(tiny_cfg, model)
    assert json.dumps(found) == json.dumps(expected)  # NaN is not equal to itself
    ours = Path(tiny_cfg.OUTPUT_DIR) / "inference"
    for file in ("lvis_instances_results.json", "per_category_ap.json"):
        assert (ours / file).read_bytes() == (stock / file).read_bytes()
    assert len(json.loads((ours / "lvis_instances_results.json").read_text())) > 100


class MaskShapes(DatasetEvaluator):
    def reset(self):
        self.shapes = set()

    def process(self, inputs, outputs):
        self.shapes |= {tuple(output["instances"].pred_masks.shape[1:]) for output in outputs}

    def evaluate(self):
        return {"shapes": {"number": len(self.shapes)}}


@pytest.mark.parametrize("pack", [lambda e: e, lambda e: [e]], ids=["one", "list"])
def test_other_evaluators_are_given_masks_of_image_size(tiny_cfg, pack):
    Path(tiny_cfg.OUTPUT_DIR).mkdir()
    evaluator = MaskShapes()
    Trainer.test(tiny_cfg, varied_model(tiny_cfg), pack(evaluator))
    assert evaluator.shapes == {(96, 96)}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_hands_over_small_masks_which_the_cpu_pastes(tiny_cfg):
    tiny_cfg.MODEL.DEVICE = "cuda"
    model, inputs = varied_model(tiny_cfg), records()
    with torch.no_grad(), unpasted(model) as detect:
        outputs = [output["instances"] for output in detect(inputs)]
    for instances, record in zip(outputs, inputs):
        assert instances.pred_masks.device.type == "cuda"
        on_cpu = instances.to("cpu")
        found = to_results(on_cpu, 0)
        size = record["height"], record["width"]
        on_cpu.pred_masks = on_cpu.pred_masks.to_bitmasks(on_cpu.pred_boxes, *size).tensor
        assert found == instances_to_coco_json(on_cpu, 0)
