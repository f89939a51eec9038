"""Sphinx roles, literal blocks and simple tables of docstrings, written in Markdown for the generated reference."""

import re

import griffe

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod|obj):`(?:([^`<]+) <)?[~.]*([\w.]+)>?`")
BORDER = re.compile(r"=+(?: +=+)+ *")


class MarkdownDocstrings(griffe.Extension):
    """Rewrites all docstrings of a package after it was loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs) -> None:
        _rewrite(pkg)


def _rewrite(item: griffe.Object) -> None:
    if item.docstring:
        item.docstring.value = in_markdown(item.docstring.value, item)
    for member in item.members.values():
        if not member.is_alias:
            _rewrite(member)


def in_markdown(text: str, item: griffe.Object) -> str:
    """
    Args:
        text: of a docstring.
        item: the object that it documents, in whose scope names are looked up.
    """
    text = ROLE.sub(lambda match: _link(match[1], match[2], item), text)
    text = re.sub(r"^:: *$", "", text, flags=re.MULTILINE)
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    return "\n".join(_with_tables(text.splitlines()))


def _link(title: str | None, target: str, item: griffe.Object) -> str:
    """Code that links to the target's entry, if the reference has one."""
    try:
        path = target if target.startswith("balanced_lvis.") else item.resolve(target)
    except griffe.NameResolutionError:
        path = target
    name = title or (target.split(".")[-1] if target.startswith("balanced_lvis.") else target)
    return f'<autoref identifier="{path}" optional><code>{name}</code></autoref>'


def _with_tables(lines: list[str]) -> list[str]:
    borders = [number for number, line in enumerate(lines) if BORDER.fullmatch(line)]
    for first, second, last in reversed(list(zip(borders[::3], borders[1::3], borders[2::3]))):
        columns = [match.span() for match in re.finditer("=+", lines[first])]
        columns[-1] = (columns[-1][0], None)
        rows = [[line[start:end].strip() for start, end in columns] for line in lines[first + 1 : last]]
        rows[second - first - 1] = ["---"] * len(columns)
        lines[first : last + 1] = ["", *(f"| {' | '.join(row)} |" for row in rows), ""]
    return lines
