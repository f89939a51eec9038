"""Base class of samplers: an infinite stream of image indices that can be resumed at any position."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

from detectron2.utils import comm
from torch.utils.data import Sampler

from ...utils.errors import InputError


class ResumableSampler(Sampler):
    """
    An infinite, seeded stream of image indices, divided among the processes of a job.

    All processes have the same :meth:`stream`; rank r of W takes the elements start + r, start + r + W, and so on. A
    resumed job continues the same stream, with any number of processes. Every iterator begins at ``start`` and is
    independent of the others: Detectron2's loader iterates several times, in each of its workers.

    Subclasses define :meth:`stream`.

    Args:
        seed: seed of the stream, the same in all processes. None draws a shared one, for which all processes must build
            their sampler.

    Attributes:
        seed: seed of the stream.
        start: number of elements of the stream that the whole job, over all processes, has used. 0 at first.
        rank: rank of this process.
        world_size: number of processes of the job.
    """

    def __init__(self, seed: int | None = None):
        self.seed = int(comm.shared_random_seed() if seed is None else seed)
        self.start = 0
        # Read here, because the workers of a loader, which may iterate, are not part of the process group.
        self.rank = comm.get_rank()
        self.world_size = comm.get_world_size()

    def stream(self) -> Iterator[int]:
        """The infinite stream of image indices of the whole job, from its beginning; depends on :attr:`seed` only."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self.stream(), self.start + self.rank, None, self.world_size)

    def state_dict(self, consumed: int) -> dict[str, int]:
        """
        The state for :meth:`load_state_dict`.

        Args:
            consumed: number of elements that the whole job, over all processes, has used since :attr:`start`. The
                sampler doesn't know it, because loaders prefetch.

        Returns:
            {"seed": seed, "start": start + consumed}.
        """
        return {"seed": self.seed, "start": self.start + int(consumed)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """
        Continue where a job stopped. Call it before the loader is iterated, as its workers copy the sampler.

        Raises:
            InputError: if ``state`` is not a result of :meth:`state_dict`.
        """
        try:
            seed, start = int(state["seed"]), int(state["start"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"Sampler state {state!r:.200} must have integers 'seed' and 'start'.") from error
        if start < 0:
            raise InputError(f"Sampler state {state!r:.200}: start is {start}; it must be at least 0.")
        self.seed, self.start = seed, start


class Detectron2Sampler(ResumableSampler):
    """
    A training sampler of Detectron2, made resumable, with the same stream as Detectron2's for the same seed.

    Args:
        make: called with ``seed=``, returns Detectron2's ``TrainingSampler`` or ``RepeatFactorTrainingSampler``. Use a
            ``functools.partial`` of the class: unlike a lambda, it can be pickled for the workers of a loader.
        seed: as in :class:`ResumableSampler`.
    """

    def __init__(self, make: Callable, seed: int | None = None):
        super().__init__(seed)
        self._make = make

    def stream(self):
        # The public iterator is the share of one rank, which can't be resumed at any position.
        return self._make(seed=self.seed)._infinite_indices()
