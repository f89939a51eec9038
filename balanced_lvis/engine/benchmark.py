"""Training steps and inference of an LVIS config beside stock Detectron2's own, on the same rendered images."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from detectron2 import model_zoo
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import transforms as T
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage

from ..config import load_config
from ..data.checks import datasets_root
from ..data.datasets import register_rendered
from ..data.rendered import RenderedSpec, render_dataset
from ..errors import InputError

# Each suite, and the config of balanced_lvis that it measures by default.
SUITES = {"train": "r50_balanced_sigmoid.yaml", "inference": "r50_balanced_sigmoid.yaml", "stage2": "r50_crt.yaml"}
CONTENDERS = ("stock", "ours")
STOCK_CONFIG = "LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
MARK = "benchmark-result "

# LVIS's vocabulary, image size and about its density of objects (12.7 an image in train).
SPEC = RenderedSpec(
    num_classes=1203, train_images=32, val_images=8, test_images=1, image_size=(640, 800), objects_per_image=12
)


def compare(suite: str, config_file: Path, device: str, batch: int, iterations: int, rounds: int) -> dict:
    """
    Measure both contenders, each in fresh processes, alternating.

    Args:
        suite: "train" (forward, backward, optimizer step), "inference" (to pasted masks), or "stage2": a step of a
            second stage, beside stock Detectron2 with everything but the classifier frozen by ``requires_grad``.
        config_file: the LVIS config of balanced_lvis to compare with Detectron2's LVIS R50 config.
        device: "cpu" or "cuda".
        batch: images at a time.
        iterations: measured steps per process, after two that warm up.
        rounds: processes per contender.

    Returns:
        one row: seconds per iteration and peak memory of both, and the ratios stock / ours.

    Raises:
        InputError: for an unknown suite, or a measurement that fails, with the end of its output.
    """
    if suite not in SUITES:
        raise InputError(f"Unknown suite {suite!r}; valid: {', '.join(SUITES)}.")
    found = {contender: [] for contender in CONTENDERS}
    job = {"suite": suite, "config_file": str(config_file), "device": device, "batch": batch, "iterations": iterations}
    with tempfile.TemporaryDirectory() as folder:
        job["weights"] = os.path.join(folder, "weights.pth")
        for _ in range(rounds):
            for contender in CONTENDERS:
                found[contender].append(_in_fresh_process({**job, "contender": contender}))
    seconds = {c: [r["seconds"] for r in found[c]] for c in CONTENDERS}
    ratios = [stock / ours for stock, ours in zip(seconds["stock"], seconds["ours"])]
    return {
        "suite": suite,
        "size": f"{batch} x 1203 classes, {SPEC.image_size[0]}x{SPEC.image_size[1]}",
        "stock_seconds": statistics.median(seconds["stock"]),
        "ours_seconds": statistics.median(seconds["ours"]),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "stock_peak_mb": max(r["peak_mb"] for r in found["stock"]),
        "ours_peak_mb": max(r["peak_mb"] for r in found["ours"]),
    }


def machine(device: str) -> dict:
    """What the measurement ran on."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _in_fresh_process(job: dict) -> dict:
    code = "import sys; from balanced_lvis.engine.benchmark import run_job; run_job(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, json.dumps(job)], capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not lines:
        raise InputError(f"The measurement of {job} failed:\n{done.stderr[-2000:]}")
    return json.loads(lines[-1][len(MARK) :])


def run_job(job_json: str) -> None:
    """One measurement in this process; prints its result."""
    job = json.loads(job_json)
    torch.manual_seed(0)
    torch.set_flush_denormal(True)  # random weights produce denormals, which a trained model doesn't
    register_rendered(render_dataset(SPEC, datasets_root() / "rendered_benchmark"))
    cfg = _config(job)
    model = build_model(cfg)
    batches = _batches(cfg, job["batch"], job["suite"] != "inference")
    _share_weights(model, batches[0], job["weights"])
    if job["suite"] == "stage2" and job["contender"] == "stock":
        _freeze_naively(model)
    step = _inference_step(model) if job["suite"] == "inference" else _train_step(cfg, model)
    cuda = job["device"] == "cuda"
    torch.manual_seed(0)  # RoIs are sampled at random: the same for all
    for index in range(2):
        step(batches[index % len(batches)])
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for index in range(job["iterations"]):
        step(batches[index % len(batches)])
    if cuda:
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / job["iterations"]
    host_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else host_mb
    print(MARK + json.dumps({"seconds": seconds, "peak_mb": peak}))


def _share_weights(model, batch, path: str) -> None:
    """
    The first process's random weights for all, so that all have the same proposals and foreground RoIs.

    The classifier's bias stays each contender's own: an activation chooses it.
    """
    if not os.path.exists(path):
        calibrate_frozen_norms(model, batch)
        state = model.state_dict()
        del state["roi_heads.box_predictor.cls_score.bias"]
        torch.save(state, path)
        return
    missing, unexpected = model.load_state_dict(torch.load(path, weights_only=True), strict=False)
    assert missing == ["roi_heads.box_predictor.cls_score.bias"] and not unexpected, (missing, unexpected)


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
