"""Code and docs avoid the phrases that were replaced by established terms or plainer words."""

import re

import pytest

from tests.common import ROOT

FOLDERS = ("balanced_lvis", "benchmarks", "configs", "docs", "gpu_check", "soak", "tools")
FILES = ("CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "README.md", "setup.py")
SUFFIXES = (".md", ".py", ".yaml")

SPACE = r"(?: |\n *(?:# )?)"  # also a line break in a docstring or comment
# What follows "a training" where it doesn't stand for a training run.
_ENDS = r"(?=[.,;:)]|$| (?:that|which|is|was|has|can|would|by|from|with|at|on|ends?|begins?|starts?)\b)"

# Case-insensitive regex: replacement. A phrase may span a line break.
PHRASES = {
    r"beside": "next to; compared with; side by side",
    r"told": "reported; stated; shown",
    r"at hand": "available",
    r"(?:go|goes|going|gone|went) on": "continue; resume",
    r"anew": "again; rebuilt; new",
    r"isn't there|aren't there|wasn't there": "not found; missing; does not exist",
    r"found out": "detected",
    r"as it were": "(nothing)",
    r"nobody|whoever": "name the user, process or program",
    r"of one's own|of ours|data of your own|one of your own": "custom; native",
    r"ours(?!\.pth)": "balanced_lvis",
    r"others'": "third-party",
    r"whole or not": "atomically",
    r"do(?:es)? without": "does not need; has no",
    r"mend(?:s|ed|ing)?": "fix",
    r"room": "disk space",
    r"trainings": "training runs",
    r"(?:a|the|another|one) training" + _ENDS: "training run",
    r"pictures?": "image",
    r"run lengths": "RLE masks",
    r"seed's": "name the paper",
    r"(?<!\")data sets?(?! 3)": "dataset",  # not the keys of stored files
    r"(?<!not.)(?<!would.)ha(?:ve|s) to": "must; needs to",
    r"is no json": "is not valid JSON",
    r"times as fast": "speed-up",
    r"as many as the data have": "inferred from the dataset",
    r"for as long as is": "for any duration",
    r"other last digits": "not bit-identical",
    r"the choice of detections": "NMS and top-k selection",
    r"a figure for a part": "metrics on a subset",
    r"which is said|says? so": "and a warning is logged",
    r"every method beside|one bad thing": "Method comparison; Fault tolerance",
    r"knows? nothing of": "does not depend on",
    r"if need be": "if needed",
    r"(?:is|are|was|were) looked (?:at|for)": "is checked",
    r"made[- ]up": "synthetic",
    r"files? of strangers|from strangers": "untrusted files",
    r"what users? ha(?:s|ve) to": "invalid input",
    r"as one likes|as is wished|as you like": "any",
    r"thereof|whereof|hereby|lest": "(rewrite)",
    r"back[- ]ends?": "backend",
    r"to the bit": "bit-identical",
    r"of another size than|of another type than": "whose size differs from; of a type unlike",
    r"in the (?:place of|file's place|folder's place)": "at; has this name",
    r"get them(?: again)?": "add; download",
    r"lead out of": "point outside",
    r"used up": "exceeded",
    r"whatever (?:the|its|their|happens)": "regardless of; for any",
    r"all of them (?:with|without|between|empty)": "all with",
    r"says where": "lists where",
    r"hold(?:s)? (?:infinite|nan)": "contain",
    r"on purpose": "intentionally",
    r"off by up to": "differs by up to",
    r"runs at a time": "parallel runs",
    r"with arguments of its own": "with its own arguments; (rewrite)",
    r"on the way": "during",
}


def paths():
    found = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.suffix in SUFFIXES]
    return [ROOT / name for name in FILES] + found


def hits(regex: str, text: str) -> list[int]:
    """Numbers of the lines on which a phrase begins."""
    pattern = re.compile(rf"(?<!\w)(?:{regex.replace(' ', SPACE)})(?!\w)", re.IGNORECASE)
    return [text.count("\n", 0, match.start()) + 1 for match in pattern.finditer(text)]


def test_a_phrase_is_found_in_any_case_and_over_a_line_break():
    assert hits("go on", "It goes on.\nGo on, go\n    on, go\n# on; gone one, ago on") == [2, 2, 3]


@pytest.mark.parametrize("regex", PHRASES)
def test_replaced_phrases_do_not_return(regex):
    found = [
        f"{path.relative_to(ROOT)}:{line}" for path in paths() for line in hits(regex, path.read_text(encoding="utf-8"))
    ]
    assert not found, f"write {PHRASES[regex]!r} instead"
