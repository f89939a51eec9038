"""The page: templates, scripts and libraries in one file."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from .. import __version__
from ..analysis.error_types import ERROR_TYPES
from ..analysis.model import Bootstrap, Interval
from ..analysis.sources import TASK_NAMES
from ..analysis.summary import GROUP_NAMES
from ..utils.text import one_line, printable
from .collect import Collected, RunNumbers
from .drawing import MOST_MARKS
from .examples import ImageView
from .numbers import MOST_CONFUSIONS, category_rows, page_json, short, task_numbers

SCRIPTS = ("theme.js", "data.js", "views.js", "charts.js", "table.js", "category.js", "sections.js", "start.js")
# Files of third parties, with their licences, which every copy must contain.
LIBRARIES = {
    "tabulator.min.js": ("tabulator.LICENSE",),
    "plotly-basic.min.js": ("plotly-basic.LICENSE", "plotly-basic.third-party.LICENSE"),
}
LIBRARY_STYLE = "tabulator.min.css", ("tabulator.LICENSE",)
_SOURCE_MAP = re.compile(r"//# sourceMappingURL=\S*|/\*# sourceMappingURL=.*?\*/")
SINGULAR = {"segm": "Mask", "bbox": "Box"}  # before AP
_HEADLINES = ("AP", "APr", "APc", "APf")
_FURTHER = ("AP50", "AP75", "APs", "APm", "APl", "AR@300")


def render(collected: Collected, title: str, with_views: bool = True) -> str:
    """
    Args:
        collected: what is shown.
        title: of the page.
        with_views: False for the page without views, whose size the views are added to.
    """
    environment = _environment()
    scripts = [
        *(_third_party(*names) for names in LIBRARIES.items()),
        "\n".join(_text(f"page/{name}") for name in SCRIPTS),
    ]
    early = _text("page/early.js")
    runs = collected.runs
    source = runs[0].analysis.source
    return environment.get_template("report.html").render(
        title=title,
        version=__version__,
        runs=runs,
        tasks={task: TASK_NAMES[task] for task in collected.tasks},
        metrics=_HEADLINES,
        further=_FURTHER,
        group_names=GROUP_NAMES,
        source=source,
        bootstrap=_bootstrap(runs[0], collected.tasks[0]),
        singular=SINGULAR,
        headlines=_headlines(collected),
        notices=collected.notices,
        has_views=bool(collected.drawn.views) or not with_views,
        has_curves=any(len(points["x"]) > 1 for run in runs for points in run.curves.values()),
        policy=_policy([early, *scripts]),
        style=Markup(f"{_third_party(*LIBRARY_STYLE)}\n{_text('page/report.css')}\n{_dark_theme()}"),
        early=Markup(early),
        scripts=[Markup(script) for script in scripts],
        data=page_json(page_data(collected, with_views)),
    )


def page_data(collected: Collected, with_views: bool = True) -> dict:
    """What the scripts of the page read."""
    drawn = collected.drawn
    first = collected.runs[0].analysis
    return {
        "runs": [one_line(run.name) for run in collected.runs],
        "tasks": list(collected.tasks),
        "task_names": TASK_NAMES,
        "singular": SINGULAR,
        "most_confusions": MOST_CONFUSIONS,
        "most_marks": MOST_MARKS,
        "group_names": GROUP_NAMES,
        "error_types": list(ERROR_TYPES),
        "categories": category_rows(first),
        "results": {
            task: [task_numbers(run.analysis.tasks[task]) for run in collected.runs] for task in collected.tasks
        },
        "intervals": {
            task: [
                {name: _interval(found) for name, found in _bootstrap(run, task).metrics.items()}
                for run in collected.runs
            ]
            for task in collected.tasks
        },
        "curves": [
            {name: points for name, points in run.curves.items() if len(points["x"]) > 1} for run in collected.runs
        ],
        "changes": [
            {
                "run": change.run,
                **{
                    kind: [[k, drawn.indices(objects.get(k, ()))] for k in categories]
                    for kind, categories in (("better", change.better), ("worse", change.worse))
                },
            }
            for change, objects in zip(collected.changes, collected.changed_objects)
        ],
        "images": [
            {kind: drawn.indices(map(ImageView, images)) for kind, images in zip(("worst", "best"), lists)}
            for lists in collected.images
        ],
        "examples": [[drawn.indices(own.objects), drawn.indices(own.false)] for own in collected.categories],
        "views": drawn.views if with_views else [],
    }


def _bootstrap(run: RunNumbers, task: str) -> Bootstrap:
    found = run.analysis.tasks[task].bootstrap
    assert found is not None  # a report without resamples is refused
    return found


def _interval(found: Interval) -> list:
    return [short(value, 3) for value in (found.value, found.low, found.high)]


def _headlines(collected: Collected) -> list[dict[str, Any]]:
    """AP and APr of the first task, of each run but the first, compared with the first."""
    task = collected.tasks[0]
    return [
        {"run": run.name, "metric": name, "difference": run.differences[task][name].difference}
        for run in collected.runs[1:]
        for name in _HEADLINES[:2]
        if not math.isnan(run.differences[task][name].difference.value)
    ]


def verdict(difference: Interval) -> str:
    """Whether an interval excludes 0: "better", "worse" or "same"; "unknown" without an interval."""
    if math.isnan(difference.low):
        return "unknown"
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "same"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "verdict": verdict}
    return environment


def _shown(value):
    """Texts that can be encoded: titles, paths and names from the command line may have lone surrogates."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def number(value: float, digits: int = 1) -> str:
    """A number for reading; a dash if it is not defined. A negative one that is rounded to 0 has no sign."""
    if math.isnan(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text if float(text) else text.lstrip("-")


def signed(value: float, digits: int = 1) -> str:
    """As :func:`number`, with a sign; 0 has none."""
    text = number(value, digits)
    if text.startswith("-"):
        return text.replace("-", "−")
    return f"+{text}" if value > 0 and float(text) else text


@cache
def _dark_theme() -> str:
    """The dark colours, for a dark system unless the light theme was chosen, and where the dark theme was chosen."""
    colors = _text("page/dark.css")
    of_system = f'@media (prefers-color-scheme: dark) {{\n:root:not([data-theme="light"]) {{\n{colors}}}\n}}'
    return f'{of_system}\n:root[data-theme="dark"] {{\n{colors}}}'


def _text(path: str) -> str:
    """A file of this package, without a reference to a source map, which browsers would look for."""
    text = resources.files(__package__).joinpath(path).read_text(encoding="utf-8")
    return _SOURCE_MAP.sub("", text)


def _third_party(name: str, licences: Sequence[str]) -> str:
    """A script or style after a comment with its licences."""
    texts = "\n".join(_text(f"vendor/{licence}") for licence in licences)
    return f"/*! {name}\n\n{texts}*/\n{_text(f'vendor/{name}')}"


def _policy(scripts: Sequence[str]) -> str:
    """
    Content security policy: only these scripts run, and nothing is loaded. Class names and file names therefore can't
    run code, even if one of them were not escaped.
    """
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"
