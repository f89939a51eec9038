"""Data loaders: those of training have a position in the stream of images that can be saved."""

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

from ..utils.parent_process import end_with_parent
from .batches import BatchStream, MappedImages, aspect_ratio_groups
from .broken_images import BrokenImages
from .dataset_records import has_rle_masks, load_records, lvis_source
from .mapper import ImageMapper
from .samplers import ClassAwareTrainingSampler, build_sampler, class_names_from_config
from .training_set import training_records


@dataclass
class TrainLoader:
    """
    An endless stream of batches, each a list of training records.

    Attributes:
        batches: a loader of torch's.
        stream: which images make which batch; None for a sampler of Detectron2's whose position can't be saved.
        batches_per_iteration: of this process.
        broken: images that could not be used, and were replaced by others.
    """

    batches: Iterable[list[dict]]
    stream: BatchStream | None
    batches_per_iteration: int = 1
    broken: BrokenImages = field(default_factory=BrokenImages)

    def __iter__(self):
        # As a generator, so that the stream begins with the first batch and not before a state has been loaded.
        for batch in self.batches:
            self.broken.take(batch)
            yield batch

    def state_dict(self, iterations: int) -> dict | None:
        """
        Args:
            iterations: those made since the loader was made or :meth:`load_state_dict` called.
        """
        return self.stream.state_dict(iterations * self.batches_per_iteration) if self.stream else None

    def load_state_dict(self, state: dict | None) -> None:
        """Go on from a saved position; to be called before the first batch."""
        if state and self.stream:
            self.stream.load_state_dict(state)


@dataclass
class MetaTrainLoader(TrainLoader):
    """
    A training loader beside one of class-balanced meta batches.

    Attributes:
        meta: of the same data set, with class-aware sampling.
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
        masks: whether records get ground-truth masks. Cropping always loads them to compute boxes.
        class_balanced_images: images per iteration of a second stream with class-aware sampling; 0 for no such stream.

    Returns:
        a :class:`MetaTrainLoader` if there is a second stream.
    """
    records = training_records(cfg)
    sampler = build_sampler(cfg, records)
    # Serialised once for both loaders; an index of annotations, or a torch data set, is left as it is.
    dataset = DatasetFromList(records, copy=False) if isinstance(records, list) else records
    mapper = ImageMapper(cfg, True, use_instance_mask=cfg.MODEL.MASK_ON and (masks or cfg.INPUT.CROP.ENABLED))
    if any(map(has_rle_masks, cfg.DATASETS.TRAIN)):
        mapper.instance_mask_format = "bitmask"  # whatever INPUT.MASK_FORMAT: run lengths have no polygons
    train = _loader(cfg, dataset, mapper, sampler, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE_BATCHES)
    if not class_balanced_images:
        return train
    # A seed that follows from the other leaves the global generators as they are without a meta loader.
    seed = sampler.seed + 1 if sampler else None
    meta_sampler = ClassAwareTrainingSampler(records, class_names_from_config(cfg), seed)
    meta = _loader(cfg, dataset, mapper, meta_sampler, class_balanced_images)
    meta.broken = train.broken
    return MetaTrainLoader(train.batches, train.stream, train.batches_per_iteration, train.broken, meta=meta)


def build_test_loader(cfg, name: str, sampler: Sequence[int] | None = None):
    """
    Detectron2's test loader of a data set, on the same images in the same order.

    Args:
        cfg: Detectron2's config.
        name: of the data set.
        sampler: indices of the images in turn; None: this process's share of all.
    """
    if cfg.MODEL.LOAD_PROPOSALS or not lvis_source(name):
        return _of_watched_workers(
            build_detection_test_loader(cfg, name, mapper=ImageMapper(cfg, False), sampler=sampler)
        )
    return _of_watched_workers(
        build_detection_test_loader(
            load_records(name, filter_empty=False),
            mapper=ImageMapper(cfg, False),
            sampler=sampler,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
    )


def _loader(cfg, dataset, mapper, sampler, images_per_iteration: int, batches: int = 1) -> TrainLoader:
    """Detectron2's loader, whose batches follow from the sampler's seed and a position in its stream alone."""
    if sampler is None:
        total = images_per_iteration // batches
        loader = build_detection_train_loader(cfg, mapper=mapper, dataset=dataset, total_batch_size=total)
        return TrainLoader(_of_watched_workers(loader), None)
    groups = aspect_ratio_groups(dataset) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None
    stream = BatchStream(sampler, images_per_iteration // (batches * comm.get_world_size()), groups)
    loader = DataLoader(
        MappedImages(dataset, mapper, cfg.DATALOADER.MAX_BROKEN),
        batch_sampler=stream,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=_as_list,
        worker_init_fn=functools.partial(_start_worker, then=_keep_signal_handlers),
        # So that the step's copies of images to a GPU need not be waited for.
        pin_memory=cfg.MODEL.DEVICE.startswith("cuda"),
        generator=torch.Generator(),  # a seed for its workers, which no one uses, is not drawn from the global one
    )
    return TrainLoader(loader, stream, batches, BrokenImages(cfg.DATALOADER.MAX_BROKEN))


def _as_list(records: list[dict]) -> list[dict]:
    return records


def _of_watched_workers(loader):
    """A loader of Detectron2's, which has no option for how its workers start."""
    inner = loader
    while not isinstance(inner, DataLoader):  # batches of it, then perhaps a mapped one
        inner = inner.dataset if hasattr(inner, "dataset") else inner._dataset
    inner.worker_init_fn = functools.partial(_start_worker, then=inner.worker_init_fn)
    return loader


def _start_worker(worker: int, then: Callable[[int], None] | None = None) -> None:
    """
    To be called first in every data worker.

    torch's workers look for their parent only between two batches, and then wait until somebody has read the batches
    that they have made, which nobody does after the parent was killed.

    Args:
        worker: its number.
        then: called with it.
    """
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends its workers
    if then is not None:
        then(worker)


def _keep_signal_handlers(worker: int) -> None:
    """
    Leave a worker with what its parent does about a scheduler's signals, in place of torch's own handler.

    Where all processes get the signal, a training that saves after the step under way needs its workers until then.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        handler = signal.getsignal(number)
        if callable(handler):
            signal.signal(number, handler)
