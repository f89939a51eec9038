"""What checks of other people's files find: problems of several kinds, counted, the first of each in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import ClassVar, Generic, NamedTuple, TypeVar

from .errors import InputError
from .text import one_line

ERROR, WARNING = "error", "warning"
SHOWN = 5  # offenders of a kind that a report names


class Kind(NamedTuple):
    """
    Attributes:
        severity: "error" or "warning"; which is which, each check says for itself.
        title: what is wrong, as words after a count.
        remedy: what to do.
    """

    severity: str
    title: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class Problem:
    """
    Attributes:
        KINDS: all there are; each check has its own.
        kind: a key of ``KINDS``.
        count: how often it occurs.
        examples: the first ones, in words and in the file's order.
    """

    KINDS: ClassVar[Mapping[str, Kind]] = {}
    kind: str
    count: int
    examples: tuple[str, ...]

    @property
    def severity(self) -> str:
        """ "error" or "warning"."""
        return self.KINDS[self.kind].severity

    def __str__(self):
        return f"{self.severity}: {self.told}"

    @property
    def told(self) -> str:
        """The count, what is wrong, the first offenders and the remedy."""
        kind = self.KINDS[self.kind]
        more = ", ..." if self.count > len(self.examples) else ""
        examples = f": {'; '.join(self.examples)}{more}" if self.examples else ""
        return f"{self.count:,} {kind.title}{examples}. {kind.remedy}"


class Problems:
    """What a report says of its ``problems``, :class:`Problem` objects in the order of their kinds."""

    problems: tuple[Problem, ...]

    @property
    def errors(self) -> list[Problem]:
        """The problems that are errors."""
        return [problem for problem in self.problems if problem.severity == ERROR]

    @property
    def warnings(self) -> list[Problem]:
        """The other problems."""
        return [problem for problem in self.problems if problem.severity == WARNING]

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    def count(self, kind: str) -> int:
        """How often a kind of problem occurs."""
        return sum(problem.count for problem in self.problems if problem.kind == kind)

    def lines(self) -> list[str]:
        """One for each kind."""
        return [f"  {problem}" for problem in self.problems] or ["  no problem found"]


ProblemType = TypeVar("ProblemType", bound=Problem)


def refuse(subject: str, problems: Collection[Problem]) -> None:
    """
    Args:
        subject: what can't be used because of them, such as "Annotations x.json".

    Raises:
        InputError: if there are any: each kind with count, first offenders and remedy.
    """
    if problems:
        lines = "\n".join(f"  {problem.told}" for problem in problems)
        raise InputError(f"{subject} can't be used:\n{lines}")


class Findings(Generic[ProblemType]):
    """
    Problems while they are found: of each kind the number, and the first in words.

    Args:
        problem: the check's own :class:`Problem`.
    """

    def __init__(self, problem: type[ProblemType]):
        self._problem = problem
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, example: str, count: int = 1) -> None:
        """Count a problem; ``example`` is kept if it is one of the first."""
        self.add_all(kind, (example,), count)

    def add_all(self, kind: str, examples: Collection[str], count: int | None = None) -> None:
        """The same of many; ``count`` where there are more of them than ``examples``."""
        self._counts[kind] = self._counts.get(kind, 0) + (len(examples) if count is None else count)
        shown = self._examples.setdefault(kind, [])
        shown += map(one_line, list(examples)[: SHOWN - len(shown)])

    def __contains__(self, kind: str) -> bool:
        return kind in self._counts

    def errors(self, but: Collection[str] = ()) -> bool:
        """Whether there are errors of other kinds than these."""
        return any(self._problem.KINDS[kind].severity == ERROR and kind not in but for kind in self._counts)

    def problems(self) -> tuple[ProblemType, ...]:
        """In the order of their kinds."""
        return tuple(
            self._problem(kind, self._counts[kind], tuple(self._examples[kind]))
            for kind in self._problem.KINDS
            if self._counts.get(kind)
        )
