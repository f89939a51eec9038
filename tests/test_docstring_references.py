"""Names in docstrings and comments that are marked as references exist."""

import ast
import functools
import importlib
import inspect
import re
from pathlib import Path

from tests.common import ROOT

ROLE = re.compile(r":(?:func|class|meth|attr|mod|data|exc):`([^`]+)`")


@functools.cache
def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one or of a class."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        return _has(found, parts[length:])
    return False


def _has(owner, names: list[str]) -> bool:
    if not names:
        return True
    if hasattr(owner, names[0]):
        return _has(getattr(owner, names[0]), names[1:])
    if not inspect.isclass(owner):
        return False
    declared = names[0] in getattr(owner, "__annotations__", {})
    return declared or re.search(rf"self\.{names[0]}\b", inspect.getsource(owner)) is not None


def candidates(target: str, path: Path, text: str, line: int) -> list[str]:
    """The full names that a reference may stand for: from the module, or from the class around it."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = parts[:-1]
    module = ".".join(package if parts[-1] == "__init__" else parts)
    if dots := len(target) - len(target.lstrip(".")):
        return [".".join((*package[: len(package) - dots + 1], target.lstrip(".")))]
    classes = [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return [target, f"{module}.{target}", *(f"{module}.{name}.{target}" for name in classes)]


def unresolved(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    found = []
    for match in ROLE.finditer(text):
        named = re.search(r"<(.+)>", match[1])
        target = (named[1] if named else match[1]).lstrip("~").removesuffix("()")
        line = text.count("\n", 0, match.start()) + 1
        if not any(map(exists, candidates(target, path, text, line))):
            found.append(f"{path.relative_to(ROOT)}:{line}: {match[0]}")
    return found


def test_references_of_docstrings_exist():
    assert exists("balanced_lvis.engine.trainer.Trainer.results")
    assert not exists("balanced_lvis.engine.trainer.Trainer.result")
    folders = ("balanced_lvis", "benchmarks", "gpu_check", "soak", "tests", "tools")
    found = [line for folder in folders for path in sorted((ROOT / folder).rglob("*.py")) for line in unresolved(path)]
    assert not found, "\n".join(found)
