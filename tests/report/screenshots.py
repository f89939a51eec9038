"""
Screenshots of a report, for the documentation.

    python -m tests.report.screenshots output/quick_start/report.html docs/images
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

from tests.report.browser import PHONE, Page, browser, why_no_browser

COLORS = 256  # of the written PNG files


def take(report: Path, folder: Path) -> None:
    """Write report_summary.png, report_dark.png, report_changes.png, report_category.png and report_phone.png."""
    with browser() as running:
        with Page(running, report, color_scheme="light") as page:
            _save(page, folder / "report_summary.png")
            _scroll(page, "changes")
            _save(page, folder / "report_changes.png")
            page.page.evaluate("location.hash = `category-${DATA.categories[DATA.changes[0].better[0][0]].id}`")
            page.page.wait_for_selector("#category h1")
            _save(page, folder / "report_category.png")
        with Page(running, report, color_scheme="dark") as page:
            _scroll(page, "frequency")
            _save(page, folder / "report_dark.png")
        shots = []
        with Page(running, report, color_scheme="light", **PHONE) as page:
            for place in ("top", "frequency", "categories", "images"):
                _scroll(page, place)
                shots.append(_shot(page))
        _side_by_side(shots).save(folder / "report_phone.png", optimize=True)


def _scroll(page: Page, place: str) -> None:
    page.page.evaluate("place => document.getElementById(place).scrollIntoView()", place)


def _shot(page: Page) -> Image.Image:
    page.page.wait_for_timeout(300)  # for transitions
    shot = Image.open(io.BytesIO(page.page.screenshot())).convert("RGB")
    return shot.quantize(COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def _save(page: Page, path: Path) -> None:
    _shot(page).save(path, optimize=True)


def _side_by_side(shots: list[Image.Image], gap: int = 24) -> Image.Image:
    width, height = shots[0].size
    joined = Image.new("RGB", ((width + gap) * len(shots) - gap, height), "white")
    for index, shot in enumerate(shots):
        joined.paste(shot.convert("RGB"), (index * (width + gap), 0))
    return joined.quantize(COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


if __name__ == "__main__":
    if reason := why_no_browser():
        sys.exit(reason)
    take(Path(sys.argv[1]).absolute(), Path(sys.argv[2]))
