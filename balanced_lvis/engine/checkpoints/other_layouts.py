"""
Names of parameters in other programs, and in Detectron2.

A layout is a list of rules. A rule is a pattern for a whole name, and the name in Detectron2: a template for
``re.Match.expand``, a function of the match, or None for what Detectron2 doesn't have.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Union

from torch import Tensor

from ...utils.errors import InputError
from ...utils.text import one_line

Target = Union[str, Callable[[re.Match], str], None]
Rule = tuple[str, Target]
_SHOWN = 20  # names in a message
_MOST_PARTS = 64  # that are numbered in a name, such as the blocks of a stage


@dataclass
class Renamed:
    """
    The tensors of a file of another program, with Detectron2's names.

    Attributes:
        state: tensors by name in Detectron2.
        origin: name in the file of each tensor in ``state``.
        dropped: names in the file of tensors that Detectron2 doesn't have.
        rules: the layout of the file.
        settings: config values that the weights rely on.
        class_names: K names in the order of the outputs; empty if unknown.
        steps: descriptions of what was done.
    """

    state: dict[str, Tensor]
    origin: dict[str, str]
    dropped: list[str]
    rules: Sequence[Rule] = ()
    settings: dict = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)


def rename(source: str, program: str, state: Mapping[str, Tensor], rules: Sequence[Rule]) -> Renamed:
    """
    Args:
        source: name of the file, for messages.
        program: that wrote the file, for messages.
        state: tensors by name in ``program``.
        rules: the layout. The first rule that matches a name counts.

    Raises:
        InputError: for names without a rule; the message lists them.
    """
    compiled = [(re.compile(pattern), target) for pattern, target in rules]
    found, unknown = Renamed({}, {}, [], rules), []
    for name, value in state.items():
        match, target = next(((m, target) for rule, target in compiled if (m := rule.fullmatch(name))), (None, None))
        if match is None:
            unknown.append(name)
        elif target is None:
            found.dropped.append(name)
        else:
            new = _renamed(match, target)
            found.state[new], found.origin[new] = value, name
    if unknown:
        raise InputError(
            f"{source!r} has parts of {program} that can't be converted:\n{_listed(unknown)}\nOnly plain ResNets "
            "and ResNeXts, and Mask and Faster R-CNN with FPN on them, have the same parts in Detectron2."
        )
    return found


def _renamed(match: re.Match, target: str | Callable[[re.Match], str]) -> str:
    return match.expand(target) if isinstance(target, str) else target(match)


def _names_in_file(rules: Sequence[Rule]) -> dict[str, str]:
    """{name in Detectron2: name in the file} of all names that the rules can match."""
    found: dict[str, str] = {}
    for pattern, target in rules:
        if target is None:
            continue
        literals_and_groups = re.split(r"\((.*?)\)", pattern)
        choices = [
            _alternatives(part) if index % 2 else [part.replace("\\", "")]
            for index, part in enumerate(literals_and_groups)
        ]
        for name in map("".join, itertools.product(*choices)):
            if match := re.fullmatch(pattern, name):
                found.setdefault(_renamed(match, target), name)
    return found


def _alternatives(group: str) -> list[str]:
    """What a group of a pattern matches: ``\\d+``, a range of digits such as ``[1-4]``, or ``a|b``."""
    if span := re.fullmatch(r"\[(\d)-(\d)\]", group):
        return [str(number) for number in range(int(span[1]), int(span[2]) + 1)]
    return [str(number) for number in range(_MOST_PARTS)] if group == r"\d+" else group.split("|")


def check_shapes(
    source: str, renamed: Renamed, shapes: Mapping[str, Sequence[int]], model: str, optional: Iterable[str] = ()
) -> None:
    """
    Check that the tensors are those of a model.

    Args:
        shapes: shape of each tensor of the model, by name in Detectron2.
        model: description of the model, for messages.
        optional: names that may be missing.

    Raises:
        InputError: if tensors are missing, have other shapes or don't belong to the model; the message lists them.
    """
    state, problems = renamed.state, []
    for name, value in state.items():
        original = one_line(renamed.origin[name])
        if name not in shapes:
            problems.append(f"{original}: in the file, not part of the model")
        elif value.shape != tuple(shapes[name]):
            problems.append(f"{original}: {tuple(value.shape)} in the file, {tuple(shapes[name])} in the model")
    if missing := [name for name in shapes if name not in state and name not in {*optional}]:
        names = _names_in_file(renamed.rules)
        problems += [f"{names.get(name, name)}: missing in the file" for name in missing]
    if problems:
        raise InputError(f"{source!r} is not a complete {model}:\n{_listed(problems)}")


def check_distinct(source: str, class_names: Sequence[str]) -> None:
    """
    Raises:
        InputError: if two classes have the same name.
    """
    for name in class_names:
        if class_names.count(name) > 1:
            raise InputError(
                f"{source!r}: {class_names.count(name)} classes have the name {one_line(name)!r}; give each class "
                "its own name."
            )


def _listed(lines: list[str]) -> str:
    more = [f"  ... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join([*(f"  {one_line(line)}" for line in lines[:_SHOWN]), *more])


def summary(names: Iterable[str]) -> list[str]:
    """Names of dropped tensors; those of the counters of batch normalisation are counted instead of listed."""
    names = list(names)
    counters = sum(name.endswith("num_batches_tracked") for name in names)
    others = [name for name in names if not name.endswith("num_batches_tracked")]
    return [*others, f"{counters} of num_batches_tracked"] if counters else others
