"""The command that renders a dataset without training."""

import numpy as np
import pytest
from PIL import Image

from balanced_lvis.commands import render
from balanced_lvis.data.rendered import read_spec
from tests.common import CONFIGS

SMALL = {"NUM_CLASSES": 4, "TRAIN_IMAGES": 5, "VAL_IMAGES": 2, "TEST_IMAGES": 1, "IMAGE_SIZE": "(64,96)"}


def overrides(root) -> list[str]:
    pairs = {**SMALL, "OBJECTS_PER_IMAGE": 2, "ROOT": root}
    return [str(word) for key, value in pairs.items() for word in (f"DATASETS.RENDERED.{key}", value)]


def test_it_renders_the_dataset_of_a_config_and_draws_examples(tmp_path, capsys):
    root, picture = tmp_path / "data", tmp_path / "examples.png"
    config = str(CONFIGS / "rendered" / "large" / "rfs.yaml")
    assert render.main(["--config-file", config, "--examples", str(picture), *overrides(root)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(root)
    assert read_spec(root).train_images == 5 and read_spec(root).image_size == (64, 96)
    pixels = np.asarray(Image.open(picture).convert("RGB"), float)
    images, instances = np.array_split(pixels[: len(pixels) // 4 * 4], 4)[:2]
    assert min(pixels.shape[:2]) > 300 and np.abs(images - instances).mean() > 0.5


@pytest.mark.parametrize(
    "words, message",
    [
        (["SOLVER.MAX_ITER", "3"], "SOLVER.MAX_ITER has no effect on the rendered dataset"),
        (["--examples", "examples.xyz"], "'xyz' is not a supported image format"),
        (["--examples", "nowhere/examples.png"], "the folder does not exist"),
    ],
)
def test_what_would_have_no_effect_is_an_error_before_rendering(tmp_path, capsys, words, message):
    root = tmp_path / "data"
    options = [word for word in words if word.startswith("--")]
    assert render.main([*words, *overrides(root)] if options else [*overrides(root), *words]) == 2
    assert message in capsys.readouterr().err and not root.exists()
