"""Which images make which batch, and with which random numbers: functions of a seed and a position alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from ..utils.random_state import seeded
from .broken_images import attach, reason_of
from .samplers import ResumableSampler

_TRIES = 1000  # images in a row, which can be the same ones again, before there is no use in going on


class Place(NamedTuple):
    """
    An image's place in a stream of images.

    Attributes:
        seed: of the stream.
        position: in the whole job's stream, over all processes, from 0 on.
        index: of the image in the data set.
    """

    seed: int
    position: int
    index: int  # type: ignore[assignment]  # a NamedTuple has a method of that name


class BatchStream:
    """
    The endless batches of one process, as places of their images, which can be taken up again anywhere.

    With ``groups``, a batch holds images of one group, as Detectron2's ``AspectRatioGroupedDataset`` makes them. It
    groups what its loader has read; here nothing has to be read, so that a stream can be taken up in the middle with
    the images that were waiting for others of their group.

    Args:
        sampler: the images in turn.
        batch_size: images of a batch.
        groups: (N,) whole numbers, the group of each image of the data set; None: images are taken as they come.
    """

    def __init__(self, sampler: ResumableSampler, batch_size: int, groups: np.ndarray | None = None):
        self.sampler = sampler
        self.batch_size = batch_size
        self.groups = groups
        self._skip = 0  # batches of the stream from the sampler's start on that are used already

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
        The state from which :meth:`load_state_dict` goes on, the same in all processes.

        Args:
            batches: those used since the stream was made or :meth:`load_state_dict` called. The stream can't know, as
                loaders draw ahead.
        """
        if self.groups is None:
            return self.sampler.state_dict(batches * self._images_per_batch)
        return {
            **self.sampler.state_dict(0), "batches": self._skip + batches, "batch_size": self.batch_size,
            "world_size": self.sampler.world_size,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """
        Go on where a job stopped, to be called before the first batch.

        Batches that were grouped go on exactly with the same batch size and number of processes. With others, the
        images that waited for others of their group are left out.

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
    Training records by :class:`Place`, augmented with random numbers that follow from it.

    So a sample is the same whoever makes it: this process or any of its workers, in a run that was interrupted or not.

    Args:
        dataset: the images in Detectron2's standard format.
        mapper: makes a training record of one; None where it can't, and another image is taken in its place. So it is
            where it raises, up to ``max_broken`` times in a row: :mod:`.broken_images` says what becomes of these.
        max_broken: as ``DATALOADER.MAX_BROKEN``.
    """

    def __init__(self, dataset: Sequence[dict], mapper: Callable[[dict], dict | None], max_broken: int = 0):
        self.dataset = dataset
        self.mapper = mapper
        self.max_broken = max_broken

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, place: Place) -> dict | None:
        index = place.index
        broken: dict[str, str] = {}
        with seeded(place.seed, place.position):
            for _ in range(_TRIES):
                record = self._mapped(index, broken)
                if record is not None or len(broken) > self.max_broken:
                    break
                index = int(np.random.randint(len(self.dataset)))
        return attach(record, broken) if broken else record

    def _mapped(self, index: int, broken: dict[str, str]) -> dict | None:
        source = self.dataset[index]
        try:
            return self.mapper(source)
        except MemoryError:  # no fault of the image
            raise
        except Exception as error:  # whatever a broken annotation makes of the code that meets it
            broken[source["file_name"]] = reason_of(error)
            return None


def aspect_ratio_groups(dataset: Sequence[dict]) -> np.ndarray:
    """
    (N,) int8: the group of each image in Detectron2's ``AspectRatioGroupedDataset``, 0 if wider than high, else 1.

    Args:
        dataset: N images in Detectron2's standard format, or a data set that knows its images' sizes.
    """
    if hasattr(dataset, "aspect_ratio_groups"):
        return dataset.aspect_ratio_groups()
    return np.array([record.get("width", 0) <= record.get("height", 0) for record in dataset], np.int8)
