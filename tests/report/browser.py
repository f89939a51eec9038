"""Chromium, driven by Playwright, without a network."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
_TIMEOUT = 120_000  # milliseconds, for busy machines
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def why_no_browser() -> str:
    """Why pages can't be opened; "" if they can."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed: pip install playwright"
    return "" if CHROMIUM else "chromium is not installed: apt-get install chromium"


@contextlib.contextmanager
def browser() -> Iterator:
    """A running Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        try:
            yield running
        finally:
            running.close()


class Page:
    """
    A report in a browser.

    Args:
        running: from :func:`browser`.
        path: the report.
        place: what follows # in the address.
        options: of the browser's context.

    Attributes:
        page: of Playwright.
        problems: console messages of warnings and errors, uncaught errors, and requests for anything but the file.
    """

    def __init__(self, running, path: Path, place: str = "", **options):
        self.problems: list[str] = []
        self._context = running.new_context(**{"viewport": DESKTOP, **options})
        self.page = self._context.new_page()
        self.page.on("console", lambda message: self._note(message.type in ("error", "warning"), message.text))
        self.page.on("pageerror", lambda error: self._note(True, str(error)))
        own = (path.as_uri(), "data:", "blob:")
        self.page.on("request", lambda request: self._note(not request.url.startswith(own), request.url[:200]))
        self.page.set_default_timeout(_TIMEOUT)
        self.page.goto(f"{path.as_uri()}#{place}")
        self.page.wait_for_selector("html[data-ready]")

    def _note(self, is_problem: bool, text: str) -> None:
        if is_problem:
            self.problems.append(text)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *error) -> None:
        self._context.close()

    def reset(self) -> None:
        """The state after opening."""
        self.page.evaluate(
            """() => {
                document.getElementById("enlarged").close();
                location.hash = "";
                hidden.clear();
                for (const key of ["boxes", "labels"]) hidden.add(key);
                showOverlays();
                for (const field of document.querySelectorAll("select[id], #category-search")) {
                    const first = field.options ? field.options[0].value : "";
                    if (field.value === first) continue;
                    field.value = first;
                    field.dispatchEvent(new Event(field.options ? "change" : "input"));
                }
                document.querySelector("#task-switch input").click();
            }"""
        )
        self.page.wait_for_selector("#overview", state="visible")

    def texts(self, selector: str) -> list[str]:
        """Texts of the elements that are shown."""
        return [text for text in self.page.locator(f"{selector}:visible").all_inner_texts()]

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
