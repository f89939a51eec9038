"""Data loaders for training, whose position can be saved and restored, and for evaluation."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from detectron2.data import (
    DatasetFromList,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.utils import comm
from torch.utils.data import DataLoader

from ..utils.memory_allocator import keep_freed_memory
from ..utils.parent_process import end_with_parent
from .batches import BatchStream, MappedImages, aspect_ratio_groups
from .copy_paste import CopyPaste, build_copy_paste
from .dataset_records import load_records
from .images.broken_images import BrokenImages
from .mapper import build_mapper
from .registered_files import has_rle_masks, lvis_source
from .samplers import ClassAwareTrainingSampler, build_sampler, class_names_from_config
from .training_set import training_records

KEPT_BYTES = 1 << 28  # of freed memory in a worker: enough for photographs, which all need about the same


@dataclass
class TrainLoader:
    """
    Infinite stream of batches, each a list of training records.

    Attributes:
        batches: a torch loader.
        stream: the images of the batches; None for a Detectron2 sampler whose position can't be saved.
        batches_per_iteration: number of batches of this process per iteration.
        broken: images that could not be used and were replaced by others.
    """

    batches: Iterable[list[dict]]
    stream: BatchStream | None
    batches_per_iteration: int = 1
    broken: BrokenImages = field(default_factory=BrokenImages)

    def __iter__(self):
        # A generator, so that the stream starts with the first batch, after a state has been loaded.
        for batch in self.batches:
            self.broken.take(batch)
            yield batch

    def state_dict(self, iterations: int) -> dict | None:
        """
        Args:
            iterations: number of iterations since the loader was created or :meth:`load_state_dict` was called.
        """
        return self.stream.state_dict(iterations * self.batches_per_iteration) if self.stream else None

    def load_state_dict(self, state: dict | None) -> None:
        """Resume from a saved position. Must be called before the first batch."""
        if state and self.stream:
            self.stream.load_state_dict(state)


@dataclass
class MetaTrainLoader(TrainLoader):
    """
    A training loader together with a loader of class-balanced meta batches.

    Attributes:
        meta: loader of the same dataset with class-aware sampling.
    """

    meta: TrainLoader = field(kw_only=True)

    def state_dict(self, iterations):
        return {"train": super().state_dict(iterations), "meta": self.meta.state_dict(iterations)}

    def load_state_dict(self, state):
        if state:
            super().load_state_dict(state["train"])
            self.meta.load_state_dict(state["meta"])


def build_train_loader(cfg, masks: bool = True, class_balanced_images: int = 0) -> TrainLoader:
    """
    Build the loader of ``DATASETS.TRAIN`` with the sampler ``DATALOADER.SAMPLER_TRAIN``.

    Args:
        cfg: Detectron2's config with balanced_lvis's keys.
        masks: whether records get ground-truth masks. Cropping always loads them to compute boxes, and copy-paste to
            paste objects.
        class_balanced_images: images per iteration of a second stream with class-aware sampling, on which nothing is
            pasted; 0 for no such stream.

    Returns:
        a :class:`MetaTrainLoader` if there is a second stream.
    """
    records = training_records(cfg)
    sampler = build_sampler(cfg, records)
    # Serialised once for both loaders. An index of annotations, or a torch dataset, is used as it is.
    dataset = DatasetFromList(records, copy=False) if isinstance(records, list) else records
    masks = masks or cfg.INPUT.CROP.ENABLED or cfg.INPUT.COPY_PASTE.ENABLED
    mapper = build_mapper(cfg, True, masks)
    if any(map(has_rle_masks, cfg.DATASETS.TRAIN)):
        mapper.instance_mask_format = "bitmask"  # whatever INPUT.MASK_FORMAT is: RLE masks have no polygons
    copy_paste = build_copy_paste(cfg, records)
    train = _loader(cfg, dataset, mapper, sampler, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE_BATCHES, copy_paste)
    if not class_balanced_images:
        return train
    # A seed derived from the other one leaves the global generators in the same state as without a meta loader.
    seed = sampler.seed + 1 if sampler else None
    meta_sampler = ClassAwareTrainingSampler(records, class_names_from_config(cfg), seed)
    meta = _loader(cfg, dataset, mapper, meta_sampler, class_balanced_images)
    meta.broken = train.broken
    return MetaTrainLoader(train.batches, train.stream, train.batches_per_iteration, train.broken, meta=meta)


def build_test_loader(cfg, name: str, sampler: Sequence[int] | None = None):
    """
    Build Detectron2's test loader of a dataset, with the same images in the same order.

    Args:
        cfg: Detectron2's config.
        name: name of the registered dataset.
        sampler: indices of the images; None: this process's share of all images.
    """
    if cfg.MODEL.LOAD_PROPOSALS or not lvis_source(name):
        return _of_watched_workers(
            build_detection_test_loader(cfg, name, mapper=build_mapper(cfg, False), sampler=sampler)
        )
    return _of_watched_workers(
        build_detection_test_loader(
            load_records(name, filter_empty=False),
            mapper=build_mapper(cfg, False),
            sampler=sampler,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
    )


def build_loss_loader(cfg, name: str, records: list[dict], masks: bool = True):
    """
    Build a loader of records with ground truth, for losses on images that are not trained on.

    Images have the size of test images and no augmentation. Masks and keypoints are as in training. Batches are as
    large as those of training, and each process loads its share of the images once.

    Args:
        cfg: Detectron2's config with balanced_lvis's keys.
        name: name of the registered dataset of the records.
        records: from :func:`~balanced_lvis.data.dataset_records.choose_records`.
        masks: whether records get ground-truth masks.
    """
    mapper = build_mapper(cfg, False)
    mapper.is_train = True  # with ground truth
    mapper.use_instance_mask = cfg.MODEL.MASK_ON and masks
    training = build_mapper(cfg, True)
    mapper.instance_mask_format = training.instance_mask_format
    mapper.use_keypoint = training.use_keypoint
    mapper.keypoint_hflip_indices = training.keypoint_hflip_indices
    if has_rle_masks(name):
        mapper.instance_mask_format = "bitmask"
    batch_size = cfg.SOLVER.IMS_PER_BATCH // (cfg.SOLVER.ACCUMULATE_BATCHES * comm.get_world_size())
    return _of_watched_workers(
        build_detection_test_loader(
            DatasetFromList(records, copy=False, serialize=False),
            mapper=mapper,
            batch_size=batch_size,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
    )


def _loader(
    cfg, dataset, mapper, sampler, images_per_iteration: int, batches: int = 1, copy_paste: CopyPaste | None = None
) -> TrainLoader:
    """Detectron2's loader, but with batches that depend only on the sampler's seed and a position in its stream."""
    if sampler is None:
        total = images_per_iteration // batches
        loader = build_detection_train_loader(cfg, mapper=mapper, dataset=dataset, total_batch_size=total)
        return TrainLoader(_of_watched_workers(loader), None)
    groups = aspect_ratio_groups(dataset) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None
    stream = BatchStream(sampler, images_per_iteration // (batches * comm.get_world_size()), groups)
    loader = DataLoader(
        MappedImages(dataset, mapper, cfg.DATALOADER.MAX_BROKEN, copy_paste),
        batch_sampler=stream,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=_as_list,
        worker_init_fn=functools.partial(_start_worker, then=_keep_signal_handlers),
        # so that images are copied to the GPU asynchronously
        pin_memory=cfg.MODEL.DEVICE.startswith("cuda"),
        generator=torch.Generator(),  # or the unused seed for its workers would be drawn from the global generator
    )
    return TrainLoader(loader, stream, batches, BrokenImages(cfg.DATALOADER.MAX_BROKEN))


def _as_list(records: list[dict]) -> list[dict]:
    return records


def _of_watched_workers(loader):
    """Start the workers of a Detectron2 loader with :func:`_start_worker`; its builders have no option for it."""
    inner = loader
    while not isinstance(inner, DataLoader):  # wrappers that batch and map
        inner = inner.dataset if hasattr(inner, "dataset") else inner._dataset
    inner.worker_init_fn = functools.partial(_start_worker, then=inner.worker_init_fn)
    return loader


def _start_worker(worker: int, then: Callable[[int], None] | None = None) -> None:
    """
    Initialise a data worker.

    torch's workers check whether their parent is alive only between two batches. They then wait until their batches
    have been read, which never happens if the parent was killed.

    Args:
        worker: number of the worker.
        then: further initialisation, called with the number.
    """
    end_with_parent()
    keep_freed_memory(most=KEPT_BYTES)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent stops its workers
    if then is not None:
        then(worker)


def _keep_signal_handlers(worker: int) -> None:
    """
    Keep the parent's handlers of preemption signals in a worker, instead of torch's own handler.

    If all processes get the signal, training that stops after the current step needs its workers until then.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        handler = signal.getsignal(number)
        if callable(handler):
            signal.signal(number, handler)
