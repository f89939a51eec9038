"""
Names of parameters in other programs, and in Detectron2.

A layout is a list of rules. A rule is a pattern for a whole name, and the name in Detectron2: a template for
``re.Match.expand``, a function of the match, or None for what Detectron2 doesn't have.
"""

from __future__ import annotations

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


@dataclass
class Renamed:
    """
    The tensors of a file of another program, with Detectron2's names.

    Attributes:
        state: tensors by name in Detectron2.
        origin: name in the file of each tensor in ``state``.
        dropped: names in the file of tensors that Detectron2 doesn't have.
        settings: config values that the weights rely on.
        class_names: K names in the order of the outputs; empty if unknown.
        steps: descriptions of what was done.
    """

    state: dict[str, Tensor]
    origin: dict[str, str]
    dropped: list[str]
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
    found, unknown = Renamed({}, {}, []), []
    for name, value in state.items():
        match, target = next(((m, target) for rule, target in compiled if (m := rule.fullmatch(name))), (None, None))
        if match is None:
            unknown.append(name)
        elif target is None:
            found.dropped.append(name)
        else:
            new = match.expand(target) if isinstance(target, str) else target(match)
            found.state[new], found.origin[new] = value, name
    if unknown:
        raise InputError(
            f"{source!r} has parts of {program} that can't be converted:\n{_listed(unknown)}\nOnly plain ResNets "
            "and ResNeXts, and Mask and Faster R-CNN with FPN on them, have the same parts in Detectron2."
        )
    return found


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
    problems += [f"{name}: missing in the file" for name in shapes if name not in state and name not in {*optional}]
    if problems:
        raise InputError(f"{source!r} is not a complete {model}:\n{_listed(problems)}")


def _listed(lines: list[str]) -> str:
    more = [f"  ... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join([*(f"  {one_line(line)}" for line in lines[:_SHOWN]), *more])


def summary(names: Iterable[str]) -> list[str]:
    """Names of dropped tensors; those of the counters of batch normalisation are counted instead of listed."""
    names = list(names)
    counters = sum(name.endswith("num_batches_tracked") for name in names)
    others = [name for name in names if not name.endswith("num_batches_tracked")]
    return [*others, f"{counters} of num_batches_tracked"] if counters else others
