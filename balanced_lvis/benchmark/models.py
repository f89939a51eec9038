"""
Training steps and inference of an LVIS config beside stock Detectron2's own, on the same rendered images.

Weights are random and images rendered, so that nothing has to be downloaded: good for comparing the two in one run, not
for predicting the speed of a trained model.
"""

from __future__ import annotations

import os
import tempfile
import time

import torch
from detectron2 import model_zoo
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import transforms as T
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from ..config import load_config
from ..data.checks import datasets_root
from ..data.datasets import register_rendered
from ..data.rendered import RenderedSpec, render_dataset
from .measure import Options, in_fresh_process, peak_mb, row, wait_for

CONTENDERS = ("stock", "ours")
STOCK_CONFIG = "LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
CLASSIFIER_BIAS = "roi_heads.box_predictor.cls_score.bias"

# LVIS's vocabulary, image size and about its density of objects (12.7 an image in train).
SPEC = RenderedSpec(
    num_classes=1203, train_images=32, val_images=8, test_images=1, image_size=(640, 800), objects_per_image=12
)


def train(options: Options) -> list[dict]:
    """A training step, forward, backward and optimizer, of both."""
    return [_compare("train", "r50_balanced_sigmoid.yaml", options)]


def stage_2(options: Options) -> list[dict]:
    """A training step of cRT, beside stock Detectron2 with all but the classifier frozen by ``requires_grad``."""
    return [_compare("stage2", "r50_crt.yaml", options)]


def inference(options: Options) -> list[dict]:
    """Inference of both, to pasted masks."""
    return [_compare("inference", "r50_balanced_sigmoid.yaml", options)]


def _compare(suite: str, config: str, options: Options) -> dict:
    """
    Both contenders, each in fresh processes, alternating; ``options.iterations`` steps after two that warm up.

    Raises:
        InputError: if a measurement fails, with the end of its output.
    """
    found = {contender: [] for contender in CONTENDERS}
    job = {
        "suite": suite,
        "config_file": options.config_file or str(options.configs / config),
        "device": options.device,
        "batch": options.batch,
        "iterations": options.iterations,
    }
    with tempfile.TemporaryDirectory() as folder:
        job["weights"] = os.path.join(folder, "weights.pth")
        for _ in range(options.rounds):
            for contender in CONTENDERS:
                found[contender].append(in_fresh_process(f"{__name__}:run_job", {**job, "contender": contender}))
    seconds = [[result["seconds"] for result in found[contender]] for contender in CONTENDERS]
    peaks = tuple(max(result["peak_mb"] for result in found[contender]) for contender in CONTENDERS)
    size = f"{options.batch} x 1203 classes, {SPEC.image_size[0]}x{SPEC.image_size[1]}"
    return row(suite, size, *seconds, peaks, identical=None)


def run_job(job: dict) -> dict:
    """One measurement in this process."""
    torch.manual_seed(0)
    torch.set_flush_denormal(True)  # random weights produce denormals, which a trained model doesn't
    register_rendered(render_dataset(SPEC, datasets_root() / "rendered_benchmark"))
    cfg = _config(job)
    model = build_model(cfg)
    batches = _batches(cfg, job["batch"], job["suite"] != "inference")
    _share_weights(model, batches[0], job["weights"])
    if job["suite"] == "stage2" and job["contender"] == "stock":
        _freeze_naively(model)
    _propose_foreground(model.roi_heads)
    step = _inference_step(model) if job["suite"] == "inference" else _train_step(cfg, model)
    torch.manual_seed(0)  # RoIs are sampled at random: the same for all
    for index in range(2):
        step(batches[index % len(batches)])
    wait_for(job["device"])
    if job["device"] == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for index in range(job["iterations"]):
        step(batches[index % len(batches)])
    wait_for(job["device"])
    seconds = (time.perf_counter() - start) / job["iterations"]
    return {"seconds": seconds, "peak_mb": peak_mb(job["device"])}


def _share_weights(model, batch, path: str) -> None:
    """
    The first process's random weights for all, so that all have the same proposals and foreground RoIs.

    The classifier's bias stays each contender's own: an activation chooses it.
    """
    if not os.path.exists(path):
        calibrate_frozen_norms(model, batch)
        state = model.state_dict()
        del state[CLASSIFIER_BIAS]
        torch.save(state, path)
        return
    missing, unexpected = model.load_state_dict(torch.load(path, weights_only=True), strict=False)
    assert missing == [CLASSIFIER_BIAS] and not unexpected, (missing, unexpected)


@torch.no_grad()
def calibrate_frozen_norms(model, batch: list[dict]) -> None:
    """
    Set the statistics of every ``FrozenBatchNorm2d`` to those of its input, in one pass over ``batch``.

    Frozen statistics belong to pretrained weights. Beside random ones they let activations grow from block to block,
    until losses are in the thousands and scores all 0 or 1: no size that a trained model works with.
    """

    def take_statistics(norm, inputs):
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(take_statistics) for norm in norms]
    model.backbone(model.preprocess_image(batch).tensor)
    for hook in hooks:
        hook.remove()


def _propose_foreground(roi_heads) -> None:
    """
    Add boxes near the objects to what is proposed in training.

    A trained model's proposals fill the quarter of RoIs that may be foreground, 128 of 512; those of random weights
    hardly meet an object, and leave the mask head without work.
    """
    sample = roi_heads.label_and_sample_proposals
    generator = torch.Generator().manual_seed(0)

    def sample_with_foreground(proposals, targets):
        proposals = [
            Instances.cat([proposed, _near(target.gt_boxes.tensor, proposed, generator)])
            for proposed, target in zip(proposals, targets)
        ]
        return sample(proposals, targets)

    roi_heads.label_and_sample_proposals = sample_with_foreground


def _near(boxes: torch.Tensor, proposed: Instances, generator: torch.Generator) -> Instances:
    """At least 256 boxes, each an object's moved by up to a tenth of its size."""
    boxes = boxes.repeat(-(-256 // len(boxes)), 1)
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    shift = 0.2 * torch.rand(len(boxes), 4, generator=generator).to(boxes.device) - 0.1
    near = Boxes(boxes + shift * size)
    near.clip(proposed.image_size)
    logits = proposed.objectness_logits.new_zeros(len(boxes))
    return Instances(proposed.image_size, proposal_boxes=near, objectness_logits=logits)


def _config(job):
    cfg = model_zoo.get_config(STOCK_CONFIG) if job["contender"] == "stock" else load_config(job["config_file"])
    cfg.MODEL.DEVICE = job["device"]
    cfg.MODEL.WEIGHTS = ""
    cfg.SOLVER.BASE_LR = 0.0  # a full step that changes nothing: the work of every iteration is that of the first
    return cfg


def _batches(cfg, size: int, is_train: bool) -> list[list[dict]]:
    """The same images for both contenders, already read and resized to 640 px: data loading is not measured here."""
    mapper = DatasetMapper(
        is_train=is_train,
        augmentations=[T.ResizeShortestEdge(SPEC.image_size[0], 1333)],
        image_format=cfg.INPUT.FORMAT,
        use_instance_mask=True,
    )
    records = [r for r in DatasetCatalog.get("rendered_train") if r["annotations"]]
    mapped = [mapper(record) for record in records[: 2 * size]]
    return [mapped[:size], mapped[size:]]


def _freeze_naively(model) -> None:
    """What one does without a second stage of its own: no gradients but the classifier's, all else as ever."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".cls_score." in name


def _train_step(cfg, model):
    model.train()
    optimizer = build_optimizer(cfg, model)
    storage = EventStorage()
    storage.__enter__()

    def step(batch):
        losses = sum(model(batch).values())
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()

    return step


def _inference_step(model):
    model.eval()

    @torch.no_grad()
    def step(batch):
        model([{key: record[key] for key in ("image", "height", "width")} for record in batch])

    return step
