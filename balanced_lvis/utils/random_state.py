"""Streams of random numbers that don't disturb each other, and seeds that follow from what they are for."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def seed_of(*key: int) -> int:
    """
    One seed per key: keys that differ in one number only give seeds that have nothing to do with each other.

    Args:
        *key: whole numbers from 0 on, such as a run's seed, a rank and an iteration.

    Returns:
        from 0 to 2**62 - 1.
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 2


def seed_all(*key: int) -> None:
    """Seed torch's generators, those of GPUs too, NumPy's and Python's with :func:`seed_of` the key."""
    seed = seed_of(*key)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """
    A context with generators of its own: torch's on the CPU, NumPy's and Python's; afterwards they are as before.

    Those of GPUs are left alone, which a forked data worker can't touch.
    """
    outside = torch.get_rng_state(), np.random.get_state(), random.getstate()
    seed = seed_of(*key)
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(outside[0])
        np.random.set_state(outside[1])
        random.setstate(outside[2])


class RandomState:
    """
    A context with its own state of torch's, NumPy's and Python's global generators; the states outside stay untouched.

    Args:
        seed: of the context's first entry.
    """

    def __init__(self, seed: int):
        outside = _states()
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        self._inside = _states()
        _restore(outside)

    def __enter__(self):
        self._outside = _states()
        _restore(self._inside)
        return self

    def __exit__(self, *exception):
        self._inside = _states()
        _restore(self._outside)


def _states():
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def _restore(states) -> None:
    cpu, cuda, numpy_state, python_state = states
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
    np.random.set_state(numpy_state)
    random.setstate(python_state)


def current_states() -> dict:
    """
    The states of all global generators, as plain values that ``torch.load(weights_only=True)`` reads. Of GPUs, that of
    the current one is taken, which is the one that this process computes on.
    """
    cpu, _, (kind, keys, *numpy_rest), python_state = _states()
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return {"cpu": cpu, "cuda": cuda, "numpy": (kind, keys.tolist(), *numpy_rest), "python": python_state}


def set_states(states: dict) -> None:
    """
    Take back what :func:`current_states` gave.

    Args:
        states: of a machine with any number of GPUs, or none. The GPU's state becomes that of the current GPU; it is
            left out where there is none.
    """
    kind, keys, *numpy_rest = states["numpy"]
    numpy_state = (kind, np.array(keys, np.uint32), *numpy_rest)
    version, internal, gauss = states["python"]
    _restore((states["cpu"], [], numpy_state, (version, tuple(internal), gauss)))
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"][0])
