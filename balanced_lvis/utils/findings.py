"""Problems found in untrusted files: a count and the first cases for each kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import ClassVar, Generic, NamedTuple, TypeVar

from .errors import InputError
from .text import one_line

ERROR, WARNING = "error", "warning"
SHOWN = 5  # cases of each kind in a report


class Kind(NamedTuple):
    """
    A kind of problem.

    Attributes:
        severity: "error" or "warning"; each check defines it.
        title: the problem, in words that follow a count.
        remedy: what to do.
    """

    severity: str
    title: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class Problem:
    """
    All cases of one kind of problem in a file.

    Attributes:
        KINDS: all kinds; each check has its own.
        kind: key in ``KINDS``.
        count: number of cases.
        examples: descriptions of the first cases, in the order of the file.
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
        return f"{self.severity}: {self.description}"

    @property
    def description(self) -> str:
        """The count, the problem, the first cases and the remedy."""
        kind = self.KINDS[self.kind]
        more = ", ..." if self.count > len(self.examples) else ""
        examples = f": {'; '.join(self.examples)}{more}" if self.examples else ""
        return f"{self.count:,} {kind.title}{examples}. {kind.remedy}"


class Problems:
    """Base class of reports with ``problems``: :class:`Problem` objects in the order of their kinds."""

    problems: tuple[Problem, ...]

    @property
    def errors(self) -> list[Problem]:
        """The problems that are errors."""
        return [problem for problem in self.problems if problem.severity == ERROR]

    @property
    def warnings(self) -> list[Problem]:
        """The problems that are warnings."""
        return [problem for problem in self.problems if problem.severity == WARNING]

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    def count(self, kind: str) -> int:
        """Number of cases of a kind of problem."""
        return sum(problem.count for problem in self.problems if problem.kind == kind)

    def lines(self) -> list[str]:
        """One line per kind."""
        return [f"  {problem}" for problem in self.problems] or ["  no problem found"]


ProblemType = TypeVar("ProblemType", bound=Problem)


def refuse(subject: str, problems: Collection[Problem]) -> None:
    """
    Raise an error if there are problems.

    Args:
        subject: what can't be used because of them, such as "Annotations x.json".

    Raises:
        InputError: if there are problems. The message lists each kind with its count, first cases and remedy.
    """
    if problems:
        lines = "\n".join(f"  {problem.description}" for problem in problems)
        raise InputError(f"{subject} can't be used:\n{lines}")


class Findings(Generic[ProblemType]):
    """
    Collects problems during a check: the count and the first cases of each kind.

    Args:
        problem: the subclass of :class:`Problem` of the check.
    """

    def __init__(self, problem: type[ProblemType]):
        self._problem = problem
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, example: str, count: int = 1) -> None:
        """Count a case; ``example`` is kept if it is one of the first."""
        self.add_all(kind, (example,), count)

    def add_all(self, kind: str, examples: Collection[str], count: int | None = None) -> None:
        """Count several cases; ``count`` is their number if it exceeds the number of ``examples``."""
        self._counts[kind] = self._counts.get(kind, 0) + (len(examples) if count is None else count)
        shown = self._examples.setdefault(kind, [])
        shown += map(one_line, list(examples)[: SHOWN - len(shown)])

    def __contains__(self, kind: str) -> bool:
        return kind in self._counts

    def errors(self, but: Collection[str] = ()) -> bool:
        """Whether there are errors of kinds other than ``but``."""
        return any(self._problem.KINDS[kind].severity == ERROR and kind not in but for kind in self._counts)

    def problems(self) -> tuple[ProblemType, ...]:
        """The problems found, in the order of their kinds."""
        return tuple(
            self._problem(kind, self._counts[kind], tuple(self._examples[kind]))
            for kind in self._problem.KINDS
            if self._counts.get(kind)
        )
