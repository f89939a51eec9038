"""
Time and memory for validating a submission of LVIS's size.

The file is synthetic: ``options.images`` images of 480 x 640 pixels with 300 detections each, as in the ``evaluate``
suite. The 19,822 images of test-dev have 5.9 million detections. The detections of a thousand images are repeated for
further images, which doesn't affect the cost of validation. There is no comparison, as the LVIS API loads the whole
file.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT

from balanced_lvis.evaluation.submission import ImageList, validate_submission
from balanced_lvis.utils.io import write_json

from .lvis_evaluation import DETECTIONS_PER_IMAGE, HEIGHT, WIDTH, make_detections, make_image
from .measure import Options, in_fresh_process, row

# Number of images with distinct detections.
_DISTINCT = 1000


def submission(options: Options) -> list[dict]:
    """Validation of a mask file of ``options.images`` images."""
    with tempfile.TemporaryDirectory() as folder:
        job = {"folder": folder, "images": options.images}
        in_fresh_process(f"{__name__}:make_submission", job)
        found = [in_fresh_process(f"{__name__}:run_validation", job) for _ in range(options.rounds)]
    expected = {"detections": options.images * DETECTIONS_PER_IMAGE, "problems": []}
    if wrong := [result for result in found if {key: result[key] for key in expected} != expected]:
        raise RuntimeError(f"The validation of a valid file found {wrong[0]}, not {expected}.")
    seconds = [result["seconds"] for result in found]
    size = f"{expected['detections']:,} detections, {found[0]['mb']:,.0f} MB"
    made = row("submission", size, seconds, seconds, (0, max(result["peak_mb"] for result in found)), None)
    without = ("stock_seconds", "ratio", "ratio_min", "ratio_max", "stock_peak_mb")
    return [{**made, **dict.fromkeys(without)}]


def run_validation(job: dict) -> dict:
    """Validate the file as ``tools/export_submission.py --validate`` does."""
    path, start = Path(job["folder"], "submission.json"), time.perf_counter()
    report = validate_submission(path, ImageList(Path(job["folder"], "annotations.json")))
    return {
        "seconds": time.perf_counter() - start,
        "detections": report.num_detections,
        "problems": list(map(str, report.problems)),
        "mb": path.stat().st_size / 1e6,
    }


def make_submission(job: dict) -> dict:
    """Write an image list and a mask file of ``job["images"]`` images to ``job["folder"]``."""
    rng = np.random.default_rng(0)
    counts = np.array([category["image_count"] for category in LVIS_CATEGORY_IMAGE_COUNT])
    share = np.sqrt(counts) / np.sqrt(counts).sum()
    endings = [_endings(rng, share) for _ in range(min(job["images"], _DISTINCT))]
    image_ids = range(1, job["images"] + 1)
    write_json(
        Path(job["folder"], "annotations.json"),
        {
            "images": [{"id": image_id, "height": HEIGHT, "width": WIDTH} for image_id in image_ids],
            "categories": [
                {"id": category_id, "name": f"class {category_id}"} for category_id in range(1, len(counts) + 1)
            ],
        },
    )
    with open(Path(job["folder"], "submission.json"), "w", encoding="ascii") as file:
        for image_id in image_ids:
            begin = ", " if image_id > 1 else "["
            for ending in endings[image_id % len(endings)]:
                file.write(f'{begin}{{"image_id": {image_id}, {ending}')
                begin = ", "
        file.write("]")
    return {}


def _endings(rng, share: np.ndarray) -> list[str]:
    """JSON text of the detections of an image, without the image id and the opening bracket."""
    image, boxes, classes = make_image(rng, 0, share)
    _, scores, labels, rles = make_detections(rng, boxes, classes, image, share)
    return [
        json.dumps(
            {
                "category_id": int(label) + 1,
                "score": float(score),
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
            }
        )[1:]
        for score, label, rle in zip(scores, labels, rles)
    ]
