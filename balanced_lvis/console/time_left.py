"""Estimate of the time that is left of training runs."""

from __future__ import annotations

from tqdm import tqdm


class TimeLeft:
    """
    Estimates the time left from the iterations since the first call with progress, so that neither the start-up nor the
    iterations of an interrupted call count. Evaluations are not estimated.

    Args:
        total: number of iterations.
    """

    def __init__(self, total: int):
        self.total = total
        self._start: float | None = None
        self._lowest: int | None = None
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int, now: float) -> str:
        """
        Args:
            done: number of finished iterations.
            now: time in seconds.

        Returns:
            a text such as "02:10 elapsed, 04:02 left"; the time left is "?" at the start and after the last iteration.
        """
        if self._start is None:
            self._start = now
        # A resumed run discards the iterations after its checkpoint.
        self._lowest = done if self._lowest is None else min(self._lowest, done)
        if self._first is None and done > self._lowest:
            self._first = done, now
        left = "?"
        if self._first is not None and self._first[0] < done < self.total:
            iterations, seconds = done - self._first[0], now - self._first[1]
            left = tqdm.format_interval(seconds / iterations * (self.total - done))
        return f"{tqdm.format_interval(now - self._start)} elapsed, {left} left"
