"""Streams of random numbers that don't disturb each other."""

from __future__ import annotations

import random

import numpy as np
import torch


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
    """The states of all global generators, as plain values that ``torch.load(weights_only=True)`` reads."""
    cpu, cuda, (kind, keys, *numpy_rest), python_state = _states()
    return {"cpu": cpu, "cuda": cuda, "numpy": (kind, keys.tolist(), *numpy_rest), "python": python_state}


def set_states(states: dict) -> None:
    """
    Take back what :func:`current_states` gave.

    Args:
        states: of a machine with any number of GPUs; GPU states are left out where there are other numbers of them.
    """
    kind, keys, *numpy_rest = states["numpy"]
    cuda = states["cuda"] if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count() else []
    numpy_state = (kind, np.array(keys, np.uint32), *numpy_rest)
    version, internal, gauss = states["python"]
    _restore((states["cpu"], cuda, numpy_state, (version, tuple(internal), gauss)))
