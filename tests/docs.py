"""Code blocks of pages in docs/."""

import re


def blocks(text, kind) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def shown_after(text, mark) -> str:
    """The block that follows the comment that starts with ``mark``."""
    return re.search(rf"<!-- {re.escape(mark)}[^\n]*-->\n```\n(.*?)\n?```", text, re.DOTALL)[1]
