"""
The waits of the host for the device in a training step and in inference, beside Detectron2's own.

    python -m tests.simulated_cuda.waits        # the tables of docs/performance.md

Both are R50-FPN models for LVIS, with small images and few RoIs: how often the host waits doesn't depend on sizes, as a
test checks with smaller models. Inference includes the copy of the detections to the CPU, as evaluators need them.
"""

from __future__ import annotations

import collections
import itertools
import os
import sys
from dataclasses import dataclass

import balanced_lvis  # isort: skip  # noqa: F401  Detectron2 before all else
import torch
from detectron2 import model_zoo
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer as build_stock_optimizer
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from balanced_lvis.config import load_config
from balanced_lvis.engine.optimizer import build_optimizer
from balanced_lvis.engine.step import TrainingStep
from balanced_lvis.evaluation import unpasted
from balanced_lvis.evaluation.model_outputs import instances_to_arrays
from benchmarks.models import STOCK_CONFIG
from benchmarks.trained import calibrate_frozen_norms
from tests.simulated_cuda.running import simulated_environment
from tests.simulated_cuda.state import ROOT, STATE, Wait

CONTENDERS = ("stock", "ours")


@dataclass(frozen=True)
class Size:
    """
    Attributes:
        classes: of the model.
        rois: of an image, in training.
        objects: of an image, in training.
        detections: of an image, in inference.
        images: of a batch.
        depth: of the ResNet.
        channels: of the FPN and the mask head.
    """

    classes: int = 20
    rois: int = 32
    objects: int = 4
    detections: int = 10
    images: int = 2
    depth: int = 50
    channels: int = 256


@dataclass(frozen=True)
class Counts:
    """
    Attributes:
        waits: how often the host waited, by :class:`.state.Wait`.
        operators: how many operators ran on the device.
    """

    waits: collections.Counter[Wait]
    operators: int

    @property
    def total(self) -> int:
        return sum(self.waits.values())


def measure(size: Size, contenders=CONTENDERS) -> dict[str, dict[str, Counts]]:
    """
    Args:
        size: of the models and their work.
        contenders: "stock" is Detectron2.

    Returns:
        {work: {"stock": counts, "ours": counts}} of one step each, after one that isn't counted.
    """
    works = {
        "a training step": _training_step,
        "a training step in float16": lambda *parts: _training_step(*parts, autocast=torch.float16),
        "inference": _inference,
    }
    found = {}
    for work, make_step in works.items():
        found[work] = {}
        for contender in contenders:
            torch.manual_seed(0)
            cfg = _config(contender, size)
            model = build_model(cfg)
            step = make_step(contender, cfg, model, _batch(size))
            with EventStorage():
                step()
                STATE.reset()
                step()
            found[work][contender] = Counts(STATE.waits.copy(), sum(STATE.operators.values()))
    return found


def _config(contender: str, size: Size):
    if contender == "stock":
        cfg = model_zoo.get_config(STOCK_CONFIG)
        cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE = True
    else:
        cfg = load_config(ROOT / "configs" / "r50_rfs.yaml")
    cfg.merge_from_list([
        "MODEL.DEVICE", "cuda", "MODEL.WEIGHTS", "", "MODEL.ROI_HEADS.NUM_CLASSES", size.classes,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", size.rois, "TEST.DETECTIONS_PER_IMAGE", size.detections,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TEST", 50, "MODEL.ROI_BOX_HEAD.FC_DIM", 64,
        "MODEL.RESNETS.DEPTH", size.depth, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256 if size.depth >= 50 else 64,
        "MODEL.FPN.OUT_CHANNELS", size.channels, "MODEL.ROI_MASK_HEAD.CONV_DIM", size.channels,
        "SOLVER.BASE_LR", 0.0,
    ])  # fmt: skip
    return cfg


def _batch(size: Size) -> list[dict]:
    """Images of random pixels with square objects."""
    batch = []
    for number in range(size.images):
        corners = torch.rand(size.objects, 2) * 60
        boxes = torch.cat([corners, corners + 20 + 12 * torch.rand(size.objects, 1)], 1)
        instances = Instances((96, 128), gt_boxes=Boxes(boxes))
        instances.gt_classes = torch.randint(0, size.classes, (size.objects,))
        instances.gt_masks = PolygonMasks([[box[[0, 1, 2, 1, 2, 3, 0, 3]].double().numpy()] for box in boxes])
        image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
        batch.append({"image": image, "instances": instances, "height": 96, "width": 128, "file_name": f"{number}.jpg"})
    return batch


def _training_step(contender: str, cfg, model, batch, autocast=None):
    """A function that makes one."""
    calibrate_frozen_norms(model, batch)
    model.train()
    batches = itertools.repeat(batch)
    if contender == "stock":
        optimizer = build_stock_optimizer(cfg, model)
        trainer = (SimpleTrainer if autocast is None else AMPTrainer)(model, batches, optimizer)
    else:
        trainer = TrainingStep(model, batches, build_optimizer(cfg, model), autocast=autocast)
    trainer.iter = 0
    return trainer.run_step


def _inference(contender: str, cfg, model, batch):
    """A function that detects and hands over what evaluators work with."""
    calibrate_frozen_norms(model, batch)
    model.eval()
    inputs = [{key: record[key] for key in ("image", "height", "width")} for record in batch]

    @torch.no_grad()
    def infer_as_stock():
        for output in model(inputs):
            instances = output["instances"].to(torch.device("cpu"))
            assert len(instances)
            instances_to_coco_json(instances, 0)

    @torch.no_grad()
    def infer_as_ours():
        with unpasted(model) as detector:
            for output in detector(inputs):
                assert len(output["instances"])
                instances_to_arrays(output["instances"])

    return infer_as_stock if contender == "stock" else infer_as_ours


def tables(found: dict[str, dict[str, Counts]]) -> str:
    """Markdown: totals of every work, and the places of the waits."""
    lines = ["| work | waits, stock | waits, ours | operators, stock | operators, ours |", "|---|---:|---:|---:|---:|"]
    for work, counts in found.items():
        stock, ours = (counts[contender] for contender in CONTENDERS)
        lines.append(f"| {work} | {stock.total} | {ours.total} | {stock.operators:,} | {ours.operators:,} |")
    for work, counts in found.items():
        for contender in CONTENDERS:
            lines += ["", f"{work[:1].upper()}{work[1:]}, {contender}:", "", "| waits | kind | operator | place |"]
            lines.append("|---:|---|---|---|")
            for wait, times in counts[contender].waits.most_common():
                lines.append(f"| {times} | {wait.kind} | `{wait.operator}` | {wait.place} |")
    return "\n".join(lines)


def main() -> None:
    if os.environ.get("SIMCUDA") != "1":
        command = [sys.executable, "-W", "ignore", "-m", "tests.simulated_cuda.waits"]
        os.execve(sys.executable, command, simulated_environment())
    print(tables(measure(Size())))


if __name__ == "__main__":
    main()
