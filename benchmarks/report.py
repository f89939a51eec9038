"""
The report of a run with crops, on the synthetic data of :mod:`benchmarks.lvis_evaluation`.

The images are noise at several scales, which JPEG and WebP compress about as well as photographs. Everything is timed,
from reading the annotations to the written file, but not imports.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from balanced_lvis.report import write_report
from balanced_lvis.utils.io import write_json

from .lvis_evaluation import DETECTIONS_PER_IMAGE, HEIGHT, WIDTH, make_data
from .measure import Options, in_fresh_process, row

DISTINCT_IMAGES = 50
_SCALES = (4, 16, 64, 256)  # pixels


def report(options: Options) -> list[dict]:
    """A report of ``options.images`` images."""
    with tempfile.TemporaryDirectory() as folder:
        job = {"folder": folder, "images": options.images}
        in_fresh_process(f"{__name__}:make_data_with_images", job)
        found = in_fresh_process(f"{__name__}:run_report", job)
    size = (
        f"{options.images} images x {DETECTIONS_PER_IMAGE} detections: {found['megabytes']:.1f} MB with "
        f"{found['views']:,} images and crops, {found['processor_seconds']:.0f} s of processor time"
    )
    return [row("report", size, [], [found["seconds"]], (None, found["peak_mb"]), identical=None)]


def make_data_with_images(job: dict) -> dict:
    """As :func:`.lvis_evaluation.make_data`, with image files, which several images share."""
    make_data(job)
    folder = Path(job["folder"])
    content = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    for image in content["images"]:
        image["file_name"] = f"{image['id'] % DISTINCT_IMAGES}.jpg"
    write_json(folder / "annotations.json", content)
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(DISTINCT_IMAGES):
        Image.fromarray(_noise(rng)).save(folder / "images" / f"{number}.jpg", quality=90)
    return {}


def _noise(rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8: noise whose amplitude is proportional to its scale, as in photographs."""
    total = np.zeros((HEIGHT, WIDTH, 3))
    for scale in _SCALES:
        small = rng.integers(0, 255, (-(-HEIGHT // scale), -(-WIDTH // scale), 3), np.uint8)
        resized = Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        total += np.asarray(resized, np.float64) * scale**0.5
    return (total / sum(scale**0.5 for scale in _SCALES)).astype(np.uint8)


def run_report(job: dict) -> dict:
    """The report in this process."""
    folder = Path(job["folder"])
    start, processor = time.perf_counter(), time.process_time()
    found = write_report(
        [folder / "detections"], folder / "annotations.json", folder / "report.html", image_root=folder / "images"
    )
    return {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - processor,
        "megabytes": found.size / 1e6,
        "views": found.views,
    }
