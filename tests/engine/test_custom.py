"""Photographs with COCO annotations: from one yaml to LVIS metrics."""

import json
import subprocess

import pytest

from balanced_lvis.evaluation.lvis_api import LVIS, METRICS, evaluate_on_lvis
from balanced_lvis.priors import ClassPrior
from tests import programs
from tests.common import CONFIGS, ROOT, SHARED_DATA

COCO_TINY = SHARED_DATA / "coco_tiny"
SMALL = CONFIGS / "custom" / "small_balanced_sigmoid.yaml"


def train_net(*words) -> subprocess.CompletedProcess:
    return run("train_net.py", *words)


def run(tool: str, *words) -> subprocess.CompletedProcess:
    return programs.run(ROOT / "tools" / tool, *words)


def split(folder, **parts):
    """Annotation files with parts of the images of coco_tiny."""
    content = json.loads((COCO_TINY / "annotations" / "instances_train2017.json").read_text())
    images = content["images"]
    for name, part in parts.items():
        ids = {image["id"] for image in images[part]}
        annotations = [a for a in content["annotations"] if a["image_id"] in ids]
        made = {**content, "images": images[part], "annotations": annotations}
        (folder / f"{name}.json").write_text(json.dumps(made))


@pytest.mark.skipif(not COCO_TINY.is_dir(), reason="needs the developers' shared data")
def test_photographs_train_in_two_processes_and_are_evaluated_from_one_yaml(tmp_path):
    split(tmp_path, train=slice(0, 12), val=slice(12, 16))
    text = SMALL.read_text().replace('"datasets/mine/images"', f'"{COCO_TINY}/train2017"')
    (tmp_path / "mine.yaml").write_text(text.replace("datasets/mine/", f"{tmp_path}/"))
    out = tmp_path / "out"
    short = ("SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "OUTPUT_DIR", out)
    done = train_net("--config-file", tmp_path / "mine.yaml", "--num-gpus", 2, *short)
    assert done.returncode == 0, done.stderr[-3000:]
    prior = ClassPrior.load(out / "class_prior.json")
    assert (prior.num_classes, prior.num_images) == (80, 12)
    results = json.loads((out / "results.json").read_text())
    assert set(results) == {"bbox", "segm"}
    assert set(results["segm"]) >= set(METRICS)
    # The metrics of the LVIS API for the written results, with COCO's ids up to 90, and for the converted file.
    written = json.loads((out / "inference" / "lvis_instances_results.json").read_text())
    assert {result["category_id"] for result in written} <= set(range(1, 91))
    (truth,) = [path for path in tmp_path.glob("val.json.lvis-*.json")]
    for task in ("bbox", "segm"):
        official, _ = evaluate_on_lvis(LVIS(str(truth)), written, task)
        assert results[task]["AP50"] == pytest.approx(official["AP50"], nan_ok=True)
    # Several processes export it: each must register the dataset.
    flags = ("--dataset", "my_val", "--output", tmp_path / "submission", "--num-gpus", 2)
    config = ("--config-file", tmp_path / "mine.yaml", "MODEL.WEIGHTS", out / "model_final.pth")
    exported = run("export_submission.py", *flags, *config)
    assert exported.returncode == 0, exported.stderr[-3000:]
    submission = json.loads((tmp_path / "submission" / "my_val_bbox.json").read_text())
    assert {result["category_id"] for result in submission} <= set(range(1, 91))
    # Later, without the training annotations.
    (tmp_path / "train.json").unlink()
    flags = ("--eval-only", "MODEL.WEIGHTS", out / "model_final.pth", *short)
    again = train_net("--config-file", tmp_path / "mine.yaml", *flags)
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads((out / "evaluation" / "results.json").read_text()) == results


def test_the_config_to_copy_says_what_it_needs(tmp_path):
    done = train_net("--config-file", SMALL, "DATASETS.CUSTOM.my_train.JSON", tmp_path / "nowhere.json")
    assert done.returncode == 2
    assert "DATASETS.CUSTOM.my_train.JSON: " in done.stderr and "nowhere.json doesn't exist" in done.stderr
    assert "Traceback" not in done.stderr
