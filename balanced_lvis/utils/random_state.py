"""Independent streams of random numbers, and seeds derived from keys."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def seed_of(*key: int) -> int:
    """
    A seed for a key. Keys that differ in a single number give independent seeds.

    Args:
        *key: non-negative integers, such as the seed of a run, a rank and an iteration.

    Returns:
        integer from 0 to 2**62 - 1.
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 2


def seed_all(*key: int) -> None:
    """Seed the global generators of torch (GPUs included), NumPy and Python with :func:`seed_of` the key."""
    seed = seed_of(*key)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """
    Context in which the generators of torch (CPU), NumPy and Python are seeded. Their states are restored afterwards.

    Generators of GPUs are not touched, as forked data workers can't access them.
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
    Context with separate states of the global generators of torch, NumPy and Python.

    Each entry continues where the last one ended. The states outside are not affected.

    Args:
        seed: seed of the first entry.
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
    The states of all global generators, as plain values that ``torch.load(weights_only=True)`` can read.

    Of the GPUs, only the current one is included, on which this process computes.
    """
    cpu, _, (kind, keys, *numpy_rest), python_state = _states()
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return {"cpu": cpu, "cuda": cuda, "numpy": (kind, keys.tolist(), *numpy_rest), "python": python_state}


def set_states(states: dict) -> None:
    """
    Restore the states of :func:`current_states`.

    Args:
        states: states from a machine with any number of GPUs, or none. The state of a GPU is restored on the current
            GPU, and ignored if there is none.
    """
    kind, keys, *numpy_rest = states["numpy"]
    numpy_state = (kind, np.array(keys, np.uint32), *numpy_rest)
    version, internal, gauss = states["python"]
    _restore((states["cpu"], [], numpy_state, (version, tuple(internal), gauss)))
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"][0])
