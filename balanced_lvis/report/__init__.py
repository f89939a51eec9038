"""
A report of one or more runs: one HTML file that opens without a network.

::

    from balanced_lvis.report import write_report

    write_report(["output/baseline", "output/balanced"], "lvis_v1_val.json", "report.html", image_root="datasets/coco")

The modules: :mod:`.collect` analyses the runs; :mod:`.outcomes`, :mod:`.examples`, :mod:`.photos`, :mod:`.views` and
:mod:`.drawing` choose and draw examples; :mod:`.numbers` and :mod:`.page` make the page, from the templates and scripts
in ``page/`` and the libraries in ``vendor/``.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..analysis import Options
from ..analysis.sources import results_path
from ..utils.errors import InputError
from ..utils.io import replacing
from ..utils.storage import check_output, clear_output_errors
from ..utils.user_paths import path_of
from .collect import Collected, Collector
from .page import render

__all__ = ["MAX_MEGABYTES", "TITLE", "Report", "run_names", "write_report"]

logger = logging.getLogger(__name__)

MAX_MEGABYTES = 15.0
MOST_RUNS = 6  # with distinct colours
TITLE = "Detection report"
_MEGABYTE = 1_000_000
_RESERVED = 10_000  # bytes for the notices, which are not known before the views are drawn


@dataclass(frozen=True)
class Report:
    """
    A report that was written.

    Attributes:
        path: path of the file.
        size: its size in bytes.
        views: number of images and crops in it.
        notices: what was left out, as sentences.
    """

    path: Path
    size: int
    views: int
    notices: tuple[str, ...]


def write_report(
    results: Sequence[str | os.PathLike],
    annotations: str | os.PathLike,
    output: str | os.PathLike,
    *,
    names: Sequence[str] | None = None,
    image_root: str | os.PathLike | None = None,
    options: Options | None = None,
    max_megabytes: float = MAX_MEGABYTES,
    title: str = TITLE,
) -> Report:
    """
    Write a report of one or more runs on the same images. Differences are those to the first run.

    Args:
        results: for each run, a results file in LVIS format (JSON or zip), stored detections, or the folder of a run.
        annotations: path of the annotation file, in LVIS format.
        output: path of the HTML file.
        names: name of each run; by default the part of its path that differs.
        image_root: folder of the images. Without it, or where images are missing, the report has no crops.
        options: of the analysis; ``samples`` must not be 0.
        max_megabytes: largest size of the file, in units of 1,000,000 bytes. Crops are left out to stay below it.
        title: of the page.

    Raises:
        InputError: if there are no runs, too many, or names that are not distinct; if the size is not above 0 and
            finite, or too small for a page without crops; or as :func:`~balanced_lvis.analysis.analyze_results`.
        StorageError: if ``output`` can't be written.
    """
    output = path_of(output, "output")
    if not 0 < max_megabytes < math.inf:
        raise InputError(f"max_megabytes is {max_megabytes}; pass a number above 0, such as {MAX_MEGABYTES:g}.")
    options = options or Options()
    options.check()
    if not options.samples:
        raise InputError("samples is 0; a report shows intervals and needs resamples: set it to 2 or more.")
    if not 1 <= len(results) <= MOST_RUNS:
        raise InputError(f"{len(results)} runs given; a report shows 1 to {MOST_RUNS}.")
    paths = [results_path(found) for found in results]
    names = _checked_names(names or run_names(results), len(paths))
    if len(set(paths)) < len(paths):
        raise InputError(f"results are not distinct: {', '.join(paths)}; name each run once.")
    check_output(output)
    collector = Collector(path_of(annotations, "annotations"), image_root, options)
    with collector.collected(paths, names) as (collected, draw):
        limit = int(max_megabytes * _MEGABYTE)
        fixed = len(render(collected, title, with_views=False).encode())
        if fixed + _RESERVED > limit:
            raise InputError(
                f"max_megabytes is {max_megabytes:g}, but the page needs {(fixed + _RESERVED) / _MEGABYTE:.2f} MB "
                "without images; set it to more."
            )
        draw(limit - fixed - _RESERVED)
        content = _rendered(collected, title, limit)
    with clear_output_errors(output), replacing(output, "wb") as file:
        file.write(content)
    report = Report(Path(output), len(content), len(collected.drawn.views), tuple(collected.notices))
    for notice in report.notices:
        logger.warning("%s", notice)
    logger.info("%s: %.1f MB, %d images and crops", report.path, report.size / _MEGABYTE, report.views)
    return report


def _rendered(collected: Collected, title: str, limit: int) -> bytes:
    """The page, without the last views if it would exceed a number of bytes."""
    content = render(collected, title).encode()
    while (excess := len(content) - limit) > 0 and collected.drawn.views:
        collected.drawn.remove_last(excess)
        content = render(collected, title).encode()
    return content


def run_names(results: Sequence[str | os.PathLike]) -> list[str]:
    """
    Names of runs: the parts of their paths that differ; of a single run, the last part, with that above a "seed_0".

    Args:
        results: paths of the runs.
    """
    parts = [Path(os.path.abspath(path).removesuffix(".zip").removesuffix(".json")).parts for path in results]
    if len(parts) == 1:
        last = parts[0][-2:] if parts[0][-1].startswith("seed_") else parts[0][-1:]
        return ["/".join(last)]
    while all(len(own) > 1 for own in parts) and len({own[0] for own in parts}) == 1:
        parts = [own[1:] for own in parts]
    while all(len(own) > 1 for own in parts) and len({own[-1] for own in parts}) == 1:
        parts = [own[:-1] for own in parts]
    return ["/".join(own) for own in parts]


def _checked_names(names: Sequence[str], number: int) -> list[str]:
    if len(names) != number:
        raise InputError(f"{len(names)} names given for {number} runs; give one for each.")
    if len(set(names)) < len(names):
        raise InputError(f"names are not distinct: {', '.join(names)}; give each run its own name.")
    return list(names)
