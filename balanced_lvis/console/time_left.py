"""Estimate of the time that is left of training runs."""

from __future__ import annotations

from tqdm import tqdm


class TimeLeft:
    """
    Estimates the time left from the work since the first call with progress, so that neither the start-up nor the work
    of an interrupted call counts.

    Args:
        total: amount of work, such as a number of iterations.
    """

    def __init__(self, total: float):
        self.total = total
        self._start: float | None = None
        self._lowest: float | None = None
        self._first: tuple[float, float] | None = None

    def __call__(self, done: float, now: float) -> str:
        """
        Args:
            done: amount of finished work.
            now: time in seconds.

        Returns:
            a text such as "02:10 elapsed, 04:02 left"; the time left is "?" at the start and at the end.
        """
        if self._start is None:
            self._start = now
        # A resumed run discards the iterations after its checkpoint.
        self._lowest = done if self._lowest is None else min(self._lowest, done)
        if self._first is None and done > self._lowest:
            self._first = done, now
        left = "?"
        if self._first is not None and self._first[0] < done < self.total:
            work, seconds = done - self._first[0], now - self._first[1]
            left = tqdm.format_interval(seconds / work * (self.total - done))
        return f"{tqdm.format_interval(now - self._start)} elapsed, {left} left"
