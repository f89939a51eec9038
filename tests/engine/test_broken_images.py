"""Training continues past broken images, reports them, and stops if there are too many."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests import programs
from tests.common import CONFIGS, ROOT
from tests.data.custom import made

CONFIG = CONFIGS / "custom" / "small_balanced_sigmoid.yaml"


def train_net(folder, *flags, **opts) -> subprocess.CompletedProcess:
    more = {"SOLVER.MAX_ITER": 4, "SOLVER.IMS_PER_BATCH": 4, "SOLVER.CHECKPOINT_PERIOD": 2, "INPUT.MIN_SIZE_TEST": 64}
    words = [word for pair in more.items() for word in pair]
    words += made.overrides(folder, DATALOADER__SAMPLER_TRAIN="TrainingSampler", **opts)
    return programs.run(ROOT / "tools" / "train_net.py", "--config-file", CONFIG, *flags, *words)


@pytest.fixture
def folder(tmp_path):
    content = made.write_with_broken_images(tmp_path, "train")
    content["images"] = content["images"][:2]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in (10, 20)]
    (tmp_path / "val.json").write_text(json.dumps(content))
    return tmp_path


def test_broken_images_of_all_processes_and_workers_are_listed_and_counted(folder):
    done = train_net(folder, "--num-gpus", 2, DATALOADER__NUM_WORKERS=1)
    assert done.returncode == 0, done.stderr[-3000:]
    listed = json.loads((folder / "out" / "broken_images.json").read_text())
    assert [Path(one["file_name"]).name for one in listed] == ["3.jpg", "4.jpg"]
    assert all("can't be read" in one["reason"] for one in listed)
    results = json.loads((folder / "out" / "results.json").read_text())
    assert results["training"] == {"broken_images": 2}
    assert "2 broken image(s) were left out" in done.stdout
    # A resumed run knows the earlier ones.
    (folder / "out" / "broken_images.json").unlink()
    for name in ("3.jpg", "4.jpg"):
        (folder / "images" / name).write_bytes((folder / "images" / "1.jpg").read_bytes())
    again = train_net(folder, "--resume", SOLVER__MAX_ITER=5)
    assert again.returncode == 0, again.stderr[-3000:]
    assert len(json.loads((folder / "out" / "broken_images.json").read_text())) == 2


@pytest.mark.parametrize("limit", [0, 1])
def test_too_many_are_one_error_that_names_them(folder, limit):
    done = train_net(folder, DATALOADER__MAX_BROKEN=limit, DATALOADER__NUM_WORKERS=1)
    assert done.returncode == 2, done.stderr[-3000:]
    assert f"more than DATALOADER.MAX_BROKEN = {limit}" in done.stderr
    assert "can't be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_image_in_evaluation_is_one_error_and_ends_all_workers(folder):
    (folder / "images" / "1.jpg").write_bytes(b"no picture")
    done = train_net(folder, DATALOADER__NUM_WORKERS=1)
    assert done.returncode == 2, done.stderr[-3000:]
    assert re.search(r"^error: Image .*1.jpg is not an image", done.stderr, re.MULTILINE)
