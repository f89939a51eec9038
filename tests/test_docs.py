"""Commands in README and docs have options that the tools have."""

import io
import re
import runpy
import sys
from contextlib import redirect_stdout, suppress
from types import ModuleType

import pytest

from tests.common import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TOOLS = sorted(path.name for path in (ROOT / "tools").glob("[!_]*.py"))
# To the end of a line, of a code span or of the command; a backslash goes on with the next line.
COMMAND = re.compile(r"tools/(\w+\.py)((?:\\\n|[^\n`#;|])*)")
OPTION = re.compile(r"(?<!\S)--[a-z][\w-]*")
# A config key in capitals, or key=value, followed by an option.
LATE_OPTION = re.compile(r"(?<!\S)'?(?:[A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)+\s|[a-z]\w*(?:\.\w+)+=)[^`]*?\s(--[a-z][\w-]*)")


def commands(text: str) -> list[tuple[str, list[str]]]:
    return [(tool, OPTION.findall(words)) for tool, words in COMMAND.findall(text)]


SHOWN = [(page.name, *found) for page in PAGES for found in commands(page.read_text(encoding="utf-8"))]


def test_commands_are_found_over_continued_lines_and_in_code_spans():
    text = "```sh\ntools/a.py --one X \\\n    --two-b 2  # not --three\n```\n`tools/b.py --four`, --five"
    assert commands(text) == [("a.py", ["--one", "--two-b"]), ("b.py", ["--four"])]
    assert len(SHOWN) > 50


def late_options(text: str) -> list[str]:
    """Options after the first override, where commands refuse them."""
    return [f"{tool}: {found[1]}" for tool, words in COMMAND.findall(text) if (found := LATE_OPTION.search(words))]


def test_options_come_before_overrides():
    assert (
        late_options("`tools/a.py --b c.d=4 --late`")
        == late_options("tools/a.py SEED.X 4 \\\n --late")
        == ["a.py: --late"]
    )
    assert late_options("tools/a.py --b x.json --c A --d train.seed=4\n--no") == []
    assert not [(page.name, late) for page in PAGES for late in late_options(page.read_text(encoding="utf-8"))]


def test_every_tool_in_the_docs_is_there():
    assert {tool for _, tool, _ in SHOWN} <= set(TOOLS)


@pytest.mark.parametrize("tool", TOOLS)
def test_every_option_in_the_docs_is_one_of_the_tool(tool, monkeypatch):
    monkeypatch.setattr(sys, "argv", [tool, "--help"])
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.delitem(sys.modules, "_checkout", raising=False)  # each tool puts the checkout first on the path
    monkeypatch.setitem(sys.modules, "_early_signals", ModuleType("_early_signals"))  # this process keeps its handlers
    with redirect_stdout(io.StringIO()) as shown, suppress(SystemExit):
        runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
    known = set(re.findall(r"--[a-z][\w-]*", shown.getvalue().partition("options:")[2]))
    assert "--help" in known
    unknown = [
        (page, option) for page, name, options in SHOWN for option in options if name == tool and option not in known
    ]
    assert not unknown
