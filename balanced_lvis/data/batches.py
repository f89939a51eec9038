"""Resumable streams of training batches: images and random numbers are functions of a seed and a position."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from ..utils.random_state import seeded
from .copy_paste import CopyPaste
from .images.broken_images import attach, reason_of
from .samplers import ResumableSampler

_TRIES = 1000  # unusable images in a row, possibly repeated, after which no further image is tried


class Place(NamedTuple):
    """
    Position of an image in a stream of images.

    Attributes:
        seed: seed of the stream.
        position: position in the stream of the whole job, over all processes, from 0.
        index: index of the image in the dataset.
    """

    seed: int
    position: int
    index: int  # type: ignore[assignment]  # a NamedTuple has a method of that name


class BatchStream:
    """
    Infinite stream of the batches of one process, as places of their images. It can be resumed at any batch.

    With ``groups``, a batch holds images of one group, as in Detectron2's ``AspectRatioGroupedDataset``. That class
    groups images after they have been read. Here, no image must be read, so that a stream can be resumed with the same
    images waiting for others of their group.

    Args:
        sampler: yields the indices of the images.
        batch_size: number of images of a batch.
        groups: (N,) integers, the group of each image of the dataset; None: batches are made in the sampler's order.
    """

    def __init__(self, sampler: ResumableSampler, batch_size: int, groups: np.ndarray | None = None):
        self.sampler = sampler
        self.batch_size = batch_size
        self.groups = groups
        self._skip = 0  # batches after the sampler's start that have been used already

    def __iter__(self) -> Iterator[list[Place]]:
        return itertools.islice(self._from_the_start(), self._skip, None)

    def _from_the_start(self) -> Iterator[list[Place]]:
        sampler = self.sampler
        seed, positions = sampler.seed, itertools.count(sampler.start + sampler.rank, sampler.world_size)
        waiting: dict[int, list[Place]] = {}
        for position, index in zip(positions, sampler):
            batch = waiting.setdefault(0 if self.groups is None else int(self.groups[index]), [])
            batch.append(Place(seed, position, int(index)))
            if len(batch) == self.batch_size:
                yield batch.copy()
                batch.clear()

    def state_dict(self, batches: int) -> dict[str, int]:
        """
        The state for :meth:`load_state_dict`, the same in all processes.

        Args:
            batches: number of batches used since the stream was created or :meth:`load_state_dict` was called. The
                stream can't know it, because loaders prefetch.
        """
        if self.groups is None:
            return self.sampler.state_dict(batches * self._images_per_batch)
        return {
            **self.sampler.state_dict(0), "batches": self._skip + batches, "batch_size": self.batch_size,
            "world_size": self.sampler.world_size,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """
        Resume from a saved state. Must be called before the first batch.

        Grouped batches resume exactly with the same batch size and number of processes. Otherwise, the images that were
        waiting for others of their group are left out.

        Raises:
            InputError: if ``state`` is not what :meth:`state_dict` returns.
        """
        self.sampler.load_state_dict(state)
        batches, size, processes = (int(state.get(key, 0)) for key in ("batches", "batch_size", "world_size"))
        if self.groups is not None and (size, processes) == (self.batch_size, self.sampler.world_size):
            self._skip = batches
        else:
            self.sampler.start += batches * size * processes

    @property
    def _images_per_batch(self) -> int:
        return self.batch_size * self.sampler.world_size


class MappedImages(Dataset):
    """
    Training records by :class:`Place`, augmented with random numbers that depend on the place only.

    A sample is therefore the same in this process and in any of its workers, in an interrupted run or not.

    Args:
        dataset: the images in Detectron2's standard format.
        mapper: makes a training record of an image. If it returns None, another image is used instead. If it raises an
            error, too, up to ``max_broken`` times in a row; see :mod:`.images.broken_images`.
        max_broken: as ``DATALOADER.MAX_BROKEN``.
        copy_paste: pastes objects of second images, which are mapped as the first ones; None: nothing is pasted. The
            random numbers of the first image are the same with and without it.
    """

    def __init__(
        self,
        dataset: Sequence[dict],
        mapper: Callable[[dict], dict | None],
        max_broken: int = 0,
        copy_paste: CopyPaste | None = None,
    ):
        self.dataset = dataset
        self.mapper = mapper
        self.max_broken = max_broken
        self.copy_paste = copy_paste

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, place: Place) -> dict | None:
        broken: dict[str, str] = {}
        with seeded(place.seed, place.position):
            record = self._usable(place.index, self._any_index, broken)
            if record is not None and self.copy_paste is not None and self.copy_paste.is_used():
                draw = self.copy_paste.draw_image
                source = self._usable(draw(), draw, broken)
                record = record if source is None else self.copy_paste(record, source)
        return attach(record, broken) if broken else record

    def _usable(self, index: int, another: Callable[[], int], broken: dict[str, str]) -> dict | None:
        """The record of an image or, while it is unusable, of another one; None if there are too many unusable ones."""
        for _ in range(_TRIES):
            record = self._mapped(index, broken)
            if record is not None or len(broken) > self.max_broken:
                return record
            index = another()
        return None

    def _any_index(self) -> int:
        return int(np.random.randint(len(self.dataset)))

    def _mapped(self, index: int, broken: dict[str, str]) -> dict | None:
        source = self.dataset[index]
        try:
            return self.mapper(source)
        except MemoryError:  # not caused by the image
            raise
        except Exception as error:  # an invalid annotation can cause any error
            broken[source["file_name"]] = reason_of(error)
            return None


def aspect_ratio_groups(dataset: Sequence[dict]) -> np.ndarray:
    """
    (N,) int8: the group of each image in Detectron2's ``AspectRatioGroupedDataset``, 0 if wider than high, else 1.

    Args:
        dataset: N images in Detectron2's standard format, or a dataset with a method of this name.
    """
    if hasattr(dataset, "aspect_ratio_groups"):
        return dataset.aspect_ratio_groups()
    return np.array([record.get("width", 0) <= record.get("height", 0) for record in dataset], np.int8)
