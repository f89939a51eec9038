"""Export of the detections of a checkpoint on a dataset as a submission, in any number of processes, resumable."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from tqdm import tqdm

from ..config import thawed
from ..config_files.keys import parent
from ..console.command_line import log_to_files
from ..console.printing import print_text
from ..data.loader import build_test_loader
from ..engine.checkpoints.identity import Identity
from ..engine.checkpoints.weights import load_for_evaluation
from ..engine.processes.job import find_job
from ..engine.processes.watchdog import note
from ..engine.run import prepare_worker, read_config
from ..engine.trainer import Trainer
from ..evaluation.lvis_api import MAX_DETECTIONS_PER_IMAGE
from ..evaluation.lvis_evaluator import category_ids_of
from ..evaluation.model_outputs import OutputWriter, unpasted
from ..evaluation.submission.chunks import Chunks
from ..evaluation.submission.results_writer import Written, write_submission
from ..modeling.box_predictor import calibration_from_config
from ..utils.errors import InputError
from ..utils.io import sha256_of
from ..utils.memory_allocator import keep_freed_memory
from ..utils.storage import clear_errors
from ..utils.text import one_line, safe_file_name
from .jobs import check_and_launch, evaluation_args

logger = logging.getLogger(__name__)

# Images per process whose detections are lost if an export is interrupted.
CHUNK = 50
CHUNKS = "chunks"
_NUM_IMAGES = "number of images"
# Keys that don't affect detections.
_IRRELEVANT = (
    "OUTPUT_DIR", "SOLVER", "DATASETS.TRAIN", "DATASETS.TEST", "DATALOADER.NUM_WORKERS", "MODEL.DEVICE",
    "MODEL.WEIGHTS", "MODEL.CLASS_PRIOR.FILE", "TEST.EVAL_PERIOD", "TEST.LVIS_BACKEND", "CUDNN_BENCHMARK",
    "VIS_PERIOD", "SEED", "WATCHDOG",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        dataset: name of the registered dataset.
        output: folder of the submission and the log and, until the export is complete, of the detections.
        zipped: write zip archives.
        chunk: number of images whose detections are saved together.
    """

    dataset: str
    output: str
    zipped: bool = False
    chunk: int = CHUNK


def export_checkpoint(args: argparse.Namespace, options: Options) -> None:
    """
    Runs a checkpoint on a dataset, writes the submission to ``options.output``, and prints what was written.

    An interrupted export is resumed if checkpoint, config and dataset are the same, with any number of processes.

    Args:
        args: config_file, opts, and the arguments of :func:`.jobs.add_job_arguments`.

    Raises:
        InputError: if the config, dataset or checkpoint is invalid, or the folder has detections of another export.
    """
    if options.chunk < 1:
        raise InputError(f"--chunk is {options.chunk}; it must be 1 or more.")
    args = evaluation_args(args)
    args.opts = [*args.opts, "DATASETS.TEST", repr((options.dataset,)), "OUTPUT_DIR", options.output]
    job = find_job(args)
    cfg = read_config(args, job)

    def prepare():
        origin = _origin(cfg)
        _chunks(options).begin(origin, int(origin[_NUM_IMAGES]))

    check_and_launch(job, cfg, args, _work, (cfg, options), prepare, options.output, "--output")


def _chunks(options: Options) -> Chunks:
    return Chunks(Path(options.output, CHUNKS), options.chunk)


def _origin(cfg) -> dict[str, str]:
    """Everything that the detections depend on, by name."""
    relevant = thawed(cfg)
    for key in _IRRELEVANT:
        node, name = parent(relevant, key)
        node.pop(name, None)
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    return {
        **_origin_of_calibration(cfg),
        "checkpoint": sha256_of(PathManager.get_local_path(cfg.MODEL.WEIGHTS.split("?", 1)[0])),
        "config": hashlib.sha256(relevant.dump().encode()).hexdigest(),
        "dataset": sha256_of(PathManager.get_local_path(metadata.json_file)),
        _NUM_IMAGES: str(len(build_test_loader(cfg, cfg.DATASETS.TEST[0]).dataset)),
    }


def _origin_of_calibration(cfg) -> dict[str, str]:
    """The class prior and files that scores depend on."""
    calibration = calibration_from_config(cfg)
    if calibration is None:
        return {}
    origin = {name: sha256_of(path) for name, path in calibration.files.items()}
    if calibration.needs_prior:
        content = json.dumps(calibration.prior.to_dict(), sort_keys=True)
        origin["class prior"] = hashlib.sha256(content.encode()).hexdigest()
    return origin


def _work(cfg, options: Options) -> None:
    """Exports in every process of the job."""
    keep_freed_memory(cfg.MODEL.DEVICE)
    with clear_errors(options.output, "--output"):
        _export(cfg, options)


def _export(cfg, options: Options) -> None:
    log_to_files(options.output, comm.get_rank(), "--output")
    prepare_worker(cfg)
    chunks = _chunks(options)
    num_images = len(build_test_loader(cfg, options.dataset).dataset)
    missing = _agreed(chunks.missing(num_images))
    _detect(cfg, options.dataset, chunks, num_images, missing)
    note("waiting for the detections of other processes", slow=True, waiting=True)
    comm.synchronize()
    if comm.is_main_process():
        note("writing the submission", slow=True)
        _check_complete(chunks, num_images)
        for written in _write(cfg, options, chunks, num_images):
            print_text(written)
        chunks.delete()


def _agreed(missing: list[int]) -> list[int]:
    """
    The list of rank 0, because a fast process may finish a chunk before another process lists the folder.

    Raises:
        InputError: if the processes see different folders.
    """
    found = comm.all_gather(missing)
    if any(other != found[0] for other in found):
        raise InputError("--output is not the same folder on all machines; choose one on a shared disk.")
    return found[0]


def _check_complete(chunks: Chunks, num_images: int) -> None:
    if missing := chunks.missing(num_images):
        raise InputError(
            f"{len(missing)} chunks of other processes are missing in {chunks.folder}; choose an --output on a shared "
            "disk and run the command again. Finished chunks are kept."
        )


def _detect(cfg, dataset: str, chunks: Chunks, num_images: int, missing: list[int]) -> None:
    """Detects in the chunks of this process."""
    mine = missing[comm.get_rank() :: comm.get_world_size()]
    positions = [position for number in mine for position in chunks.images(number, num_images)]
    left = sum(len(chunks.images(number, num_images)) for number in missing)
    if left < num_images:
        logger.info("Resuming: %d of %d images are done", num_images - left, num_images)
    if not mine:
        return
    loader = build_test_loader(cfg, dataset, positions)
    bar = tqdm(
        loader, f"{one_line(dataset)}, this process", unit="img", disable=None if comm.is_main_process() else True
    )
    batches = iter(bar)
    with _detector(cfg) as detector:
        for number in mine:
            with chunks.writing(number) as writer, OutputWriter(writer) as output:
                for inputs in itertools.islice(batches, len(chunks.images(number, num_images))):
                    note("detecting", slow=True)  # the watchdog judges each batch, as the dataset may take any time
                    output.write(inputs, detector(inputs))


@contextlib.contextmanager
def _detector(cfg) -> Iterator:
    """The model of the checkpoint, which does not paste masks into images if it can avoid it."""
    if cfg.TEST.DETECTIONS_PER_IMAGE < MAX_DETECTIONS_PER_IMAGE:
        logger.warning(
            "TEST.DETECTIONS_PER_IMAGE is %d; a submission may have up to %d detections per image.",
            cfg.TEST.DETECTIONS_PER_IMAGE, MAX_DETECTIONS_PER_IMAGE,
        )  # fmt: skip
    model = Trainer.build_model(cfg)
    load_for_evaluation(model, cfg.MODEL.WEIGHTS, Identity.from_config(cfg, evaluation=True), cfg.MODEL.TRUST_WEIGHTS)
    model.eval()
    with torch.no_grad(), unpasted(model) as detector:
        yield detector


def _write(cfg, options: Options, chunks: Chunks, num_images: int) -> list[Written]:
    category_ids = category_ids_of(MetadataCatalog.get(options.dataset))
    return write_submission(
        lambda: chunks.detections(num_images, category_ids),
        os.path.join(options.output, safe_file_name(options.dataset)),
        masks=cfg.MODEL.MASK_ON,
        zipped=options.zipped,
    )
