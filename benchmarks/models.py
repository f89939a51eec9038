"""
Training steps and inference of an LVIS config, compared with Detectron2's config on the same rendered images.

Weights are random and images rendered, so that nothing needs to be downloaded; :mod:`.trained` makes the model behave
like a trained one. Stock uses Detectron2's sigmoid classifier (``USE_SIGMOID_CE``), so that both have the same losses
and scores.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
import time

import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import transforms as T
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer as build_stock_optimizer
from detectron2.utils.events import EventStorage

from balanced_lvis.config import load_config
from balanced_lvis.data.config_datasets import register_rendered
from balanced_lvis.data.dataset_files import datasets_root
from balanced_lvis.data.rendered import RenderedSpec, render_dataset
from balanced_lvis.engine.optimizer import build_optimizer
from balanced_lvis.engine.precision import autocast_dtype
from balanced_lvis.engine.speed import apply_speed
from balanced_lvis.engine.step import TrainingStep
from balanced_lvis.evaluation import unpasted
from balanced_lvis.evaluation.model_outputs import instances_to_arrays
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.memory_allocator import keep_freed_memory

from . import trained
from .measure import Options, peak_mb, row, wait_for, with_own_peak, without_tf32

CONTENDERS = ("stock", "native")
FIXED_CONFIG = "base/ap_fixed_inference"
STOCK_CONFIG = "LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
CLASSIFIER_BIAS = "roi_heads.box_predictor.cls_score.bias"
START_BIAS = -6.9  # an initial score of 0.001 for sigmoid classifiers
WARM_UPS = {"cpu": 1, "cuda": 5}  # on a GPU, memory is allocated and kernels are loaded in the first steps
TOLERANCE = 1e-5  # relative for losses, absolute for probabilities of masks

# The number of classes and about the density of objects of LVIS (12.7 per image in train).
SPEC = RenderedSpec(
    num_classes=1203, train_images=8, val_images=1, test_images=1, image_size=(800, 1216), objects_per_image=12
)
TRAIN_SIDE = 720  # the mean of 640 to 800, the range in LVIS configs
OUTPUT_SIZE = (421, 640)  # a COCO photograph, resized to 800 x 1216


def train(options: Options) -> list[dict]:
    """A complete training step: forward, backward, optimizer, metrics."""
    return [_compare("train", "r50_rfs.yaml", options)]


def stage_2(options: Options) -> list[dict]:
    """A training step of cRT, compared with Detectron2 with all parameters but the classifier's frozen."""
    return [_compare("stage2", "r50_crt.yaml", options)]


def inference(options: Options) -> list[dict]:
    """Inference from an image to boxes, scores, classes and RLE masks."""
    return [_compare("inference", "r50_rfs.yaml", options)]


def fixed(options: Options) -> list[dict]:
    """Inference for AP-fixed, compared with that of the same config with 300 detections; masks as RLE in both."""
    batch = options.batch or 1
    found: dict[str, list[dict]] = {"": [], FIXED_CONFIG: []}
    with tempfile.TemporaryDirectory() as folder:
        job = {
            "suite": "inference", "contender": "native", "config_file": str(options.configs / "r50_rfs.yaml"),
            "opts": options.opts, "device": options.device, "batch": batch, "iterations": options.iterations,
            "folder": folder,
        }  # fmt: skip
        for _ in range(options.rounds):
            for second_base, results in found.items():
                results.append(with_own_peak(f"{__name__}:run_job", {**job, "second_base": second_base}))
    numbers = [results[0]["detections"][0].split()[0] for results in found.values()]
    seconds = [[result["seconds"] for result in results] for results in found.values()]
    peaks = tuple(max(result["peak_mb"] for result in results) for results in found.values())
    size = f"{batch} image(s) of 800x1216, 1000 proposals, {numbers[0]} detections; then {numbers[1]} ({FIXED_CONFIG})"
    return [row("fixed", size, seconds[0], seconds[1], peaks, identical=None)]


def _compare(suite: str, config: str, options: Options) -> dict:
    """
    Measure both contenders alternately, on the CPU in new processes: ``options.iterations`` steps after a warm-up.

    Raises:
        InputError: if a measurement fails, with the end of its output.
    """
    found: dict[str, list[dict]] = {contender: [] for contender in CONTENDERS}
    batch = options.batch or (1 if suite == "inference" else 2)
    job = {
        "suite": suite,
        "config_file": options.config_file or str(options.configs / config),
        "opts": options.opts,
        "device": options.device,
        "batch": batch,
        "iterations": options.iterations,
    }
    with tempfile.TemporaryDirectory() as folder:
        job["folder"] = folder
        for _ in range(options.rounds):
            for contender in CONTENDERS:
                found[contender].append(with_own_peak(f"{__name__}:run_job", {**job, "contender": contender}))
        identical = None if suite == "stage2" else _IDENTICAL[suite](*found.values())
        if suite == "train" and found["native"][0]["autocast"]:
            identical = None  # half-precision values are summed in another order
        if suite == "inference":
            identical = identical and masks_agree(*(_masks_path(folder, contender) for contender in CONTENDERS))
    seconds = [[result["seconds"] for result in found[contender]] for contender in CONTENDERS]
    peaks = tuple(max(result["peak_mb"] for result in found[contender]) for contender in CONTENDERS)
    return row(suite, _size(suite, batch), seconds[0], seconds[1], peaks, identical)


def _size(suite: str, batch: int) -> str:
    if suite == "inference":
        return f"{batch} image(s) of 800x1216, 1000 proposals and {trained.DETECTIONS} detections each"
    height, width = TRAIN_SIDE, round(SPEC.image_size[1] * TRAIN_SIDE / SPEC.image_size[0])
    return f"{batch} images of {height}x{width}, 512 RoIs each, of which 128 foreground"


def losses_agree(stock: list[dict], native: list[dict]) -> bool:
    """
    Whether all measurements have the same losses, up to the rounding of float32.

    Args:
        stock, native: results of :func:`run_job` with "losses", {name: value} of each step.
    """
    first = stock[0]["losses"]
    return all(
        [set(step) for step in result["losses"]] == [set(step) for step in first]
        and all(abs(step[n] - to[n]) <= TOLERANCE * abs(to[n]) for step, to in zip(result["losses"], first) for n in to)
        for result in (*stock, *native)
    )


def detections_equal(stock: list[dict], native: list[dict]) -> bool:
    """Whether all measurements have bit-identical detections."""
    return len({tuple(result["detections"]) for result in (*stock, *native)}) == 1


def masks_agree(stock: str, native: str) -> bool:
    """Whether two files have the same probabilities, up to the rounding of float32."""
    return bool(np.allclose(np.load(stock), np.load(native), rtol=0, atol=TOLERANCE))


_IDENTICAL = {"train": losses_agree, "inference": detections_equal}


def run_job(job: dict) -> dict:
    """One measurement in this process, whose settings are restored afterwards."""
    torch.manual_seed(0)
    precision = torch.get_float32_matmul_precision()
    torch.set_flush_denormal(True)  # unlike a trained model, random weights produce denormals
    try:
        return _run_job(job)
    finally:
        torch.set_flush_denormal(False)
        torch.set_float32_matmul_precision(precision)


def _run_job(job: dict) -> dict:
    register_rendered(render_dataset(SPEC, datasets_root() / "rendered_benchmark"))
    cfg = _config(job)
    model = build_model(cfg)
    if job["contender"] == "native":
        keep_freed_memory(job["device"])  # as tools/train_net.py does
        apply_speed(cfg, model)
    batches = _batches(cfg, job["batch"], job["suite"] != "inference")
    _share_weights(model, batches[0], os.path.join(job["folder"], "weights.pth"))
    return (_infer if job["suite"] == "inference" else _train)(job, cfg, model, batches)


def _timed(job: dict, step) -> dict:
    for _ in range(WARM_UPS[job["device"]]):
        step()
    wait_for(job["device"])
    if job["device"] == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(job["iterations"]):
        step()
    wait_for(job["device"])
    return {"seconds": (time.perf_counter() - start) / job["iterations"], "peak_mb": peak_mb(job["device"])}


def _train(job: dict, cfg, model, batches: list[list[dict]]) -> dict:
    stock = job["contender"] == "stock"
    if job["suite"] == "stage2" and stock:
        _freeze_naively(model)
    trained.propose_around_objects(model, batches)
    model.train()
    optimizer = (build_stock_optimizer if stock else build_optimizer)(cfg, model)
    autocast = autocast_dtype(cfg)
    make = _stock_trainer if stock else TrainingStep
    trainer = make(model, itertools.cycle(batches), optimizer, autocast=autocast)
    losses = []
    torch.manual_seed(0)  # for the random sampling of RoIs
    with EventStorage() as storage:

        def step():
            trainer.run_step()
            losses.append({name: value for name, (value, _) in storage.latest().items() if name.startswith("loss_")})

        found = _timed(job, step)
        sampled = [storage.latest()[f"roi_head/num_{kind}_samples"][0] for kind in ("fg", "bg")]
    if sampled != [128, 384]:
        raise InputError(f"{sampled} foreground and background RoIs were sampled in an image, not 128 and 384.")
    return {**found, "losses": losses, "autocast": autocast is not None}


def _stock_trainer(model, data, optimizer, autocast: torch.dtype | None) -> SimpleTrainer:
    """Detectron2's trainer. Its mixed precision is float16; other types use its plain trainer under autocast."""
    if autocast == torch.float16:
        return AMPTrainer(model, data, optimizer)
    return SimpleTrainer(model if autocast is None else _UnderAutocast(model, autocast), data, optimizer)


class _UnderAutocast(torch.nn.Module):
    def __init__(self, model, dtype: torch.dtype):
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, batch):
        with torch.autocast(self.model.device.type, dtype=self.dtype):
            return self.model(batch)


def _infer(job: dict, cfg, model, batches: list[list[dict]]) -> dict:
    model.eval()
    computed = trained.detect_as_trained(model, job["batch"])
    batch = [{"image": r["image"], "height": OUTPUT_SIZE[0], "width": OUTPUT_SIZE[1]} for r in batches[0]]
    results: list = []

    @torch.no_grad()
    def step_of_stock():
        results[:] = [instances_to_coco_json(o["instances"].to(torch.device("cpu")), 0) for o in model(batch)]

    @torch.no_grad()
    def step_of_native():
        with unpasted(model) as detector:
            results[:] = [instances_to_arrays(o["instances"]) for o in detector(batch)]

    step = step_of_stock if job["contender"] == "stock" else step_of_native
    found = _timed(job, step)
    if job["device"] == "cuda":
        with without_tf32():
            step()
    masks = torch.cat(computed[-job["batch"] :]).cpu().numpy()
    np.save(_masks_path(job["folder"], job["contender"]), masks)
    to_arrays = _arrays if job["contender"] == "stock" else tuple
    return {**found, "detections": [digest(*to_arrays(result)) for result in results]}


def _masks_path(folder: str, contender: str) -> str:
    return os.path.join(folder, f"masks_{contender}.npy")


def _arrays(results: list[dict]):
    """Detectron2's results in the format of balanced_lvis's evaluator."""
    boxes = np.array([r["bbox"] for r in results], np.float32)
    scores = np.array([r["score"] for r in results], np.float64)
    classes = np.array([r["category_id"] for r in results], np.int64)
    return boxes, scores, classes, [r["segmentation"] for r in results]


def digest(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, rles: list[dict]) -> str:
    """Number and hash of the detections of an image, in order."""
    content = hashlib.sha256()
    for array, dtype in ((boxes, np.float32), (scores, np.float64), (classes, np.int64)):
        content.update(np.ascontiguousarray(array, dtype).tobytes())
    for rle in rles:
        content.update(f"{list(rle['size'])} {rle['counts']} ".encode())
    return f"{len(scores)} {content.hexdigest()}"


def _share_weights(model, batch, path: str) -> None:
    """Use the random weights of the first process in all, so that all have the same losses and masks."""
    if not os.path.exists(path):
        trained.calibrate_frozen_norms(model, batch)
        state = model.state_dict()
        state[CLASSIFIER_BIAS].fill_(START_BIAS)
        torch.save(state, path)
    model.load_state_dict(torch.load(path, weights_only=True))


def _config(job):
    cfg = load_config(_with_base(job, job.get("second_base")), job["opts"])
    if job["contender"] == "stock":
        amp = cfg.SOLVER.AMP
        cfg = model_zoo.get_config(STOCK_CONFIG)
        cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE = True
        cfg.SOLVER.AMP = amp  # speed is compared at the same precision
    cfg.MODEL.DEVICE = job["device"]
    cfg.MODEL.WEIGHTS = ""
    cfg.SOLVER.BASE_LR = 0.0  # a full step that does not change the weights, so that all iterations are alike
    return cfg


def _with_base(job: dict, second_base: str | None) -> str:
    """A config file with a second base, which overrides values of the first."""
    if not second_base:
        return job["config_file"]
    path = os.path.join(job["folder"], "config.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'_BASE_: ["{os.path.abspath(job["config_file"])}", "{second_base}"]\n')
    return path


def _batches(cfg, size: int, is_train: bool) -> list[list[dict]]:
    """The same images for both contenders, already read and resized: data loading is not measured."""
    mapper = DatasetMapper(
        is_train=is_train,
        augmentations=[T.ResizeShortestEdge(TRAIN_SIDE if is_train else SPEC.image_size[0], 1333)],
        image_format=cfg.INPUT.FORMAT,
        use_instance_mask=True,
    )
    records = [r for r in DatasetCatalog.get("rendered_train") if r["annotations"]]
    mapped = [mapper(record) for record in records[: 2 * size]]
    return [mapped[:size], mapped[size:]]


def _freeze_naively(model) -> None:
    """Freeze all parameters except the classifier's, the simplest second stage in Detectron2."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".cls_score." in name
