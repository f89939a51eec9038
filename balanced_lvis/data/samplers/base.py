"""What every sampler is: an endless stream of image indices that can be taken up again anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

from detectron2.utils import comm
from torch.utils.data import Sampler

from ...utils.errors import InputError


class ResumableSampler(Sampler):
    """
    An endless, seeded stream of image indices, dealt out to the processes of a job.

    Of :meth:`stream`, which is one and the same in all processes, rank r of W takes the elements start + r,
    start + r + W, and so on. So a job that goes on at another ``start``, or with another number of processes, goes on
    in the same stream. Iterating anew begins at ``start`` again, and does not disturb an iteration under way:
    Detectron2's loader iterates several times over, in each of its workers.

    Subclasses define :meth:`stream`.

    Args:
        seed: of the stream; it must be the same in all processes. None draws one that is, for which all processes
            have to build their sampler.

    Attributes:
        seed: of the stream.
        start: how many elements of the whole job's stream, over all processes, are used already. 0 at first.
        rank: of this process.
        world_size: processes of the job.
    """

    def __init__(self, seed: int | None = None):
        self.seed = int(comm.shared_random_seed() if seed is None else seed)
        self.start = 0
        # Asked for here because a loader's workers, which may iterate, don't know.
        self.rank = comm.get_rank()
        self.world_size = comm.get_world_size()

    def stream(self) -> Iterator[int]:
        """The whole job's endless stream of image indices, from its beginning: a function of :attr:`seed` alone."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self.stream(), self.start + self.rank, None, self.world_size)

    def state_dict(self, consumed: int) -> dict[str, int]:
        """
        The state from which :meth:`load_state_dict` goes on.

        Args:
            consumed: elements that the whole job, all processes together, has used from :attr:`start` on. The sampler
                can't know, as loaders draw ahead.

        Returns:
            {"seed": seed, "start": start + consumed}.
        """
        return {"seed": self.seed, "start": self.start + int(consumed)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """
        Go on where a job stopped. Call it before the loader is iterated: its workers take copies of the sampler.

        Raises:
            InputError: if ``state`` is not what :meth:`state_dict` returns.
        """
        try:
            seed, start = int(state["seed"]), int(state["start"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"Sampler state {state!r:.200} has no whole numbers 'seed' and 'start'.") from error
        if start < 0:
            raise InputError(f"Sampler state {state!r:.200}: start is {start}; it must be at least 0.")
        self.seed, self.start = seed, start


class Detectron2Sampler(ResumableSampler):
    """
    One of Detectron2's own training samplers, made resumable: the very stream it has for that seed.

    Args:
        make: called with ``seed=``, returns Detectron2's ``TrainingSampler`` or ``RepeatFactorTrainingSampler``. A
            ``functools.partial`` of the class, which, unlike a lambda, reaches the loader's workers however they are
            started.
        seed: as in :class:`ResumableSampler`.
    """

    def __init__(self, make: Callable, seed: int | None = None):
        super().__init__(seed)
        self._make = make

    def stream(self):
        # Their public iterator is one rank's share, which can't be taken up at any position.
        return self._make(seed=self.seed)._infinite_indices()
