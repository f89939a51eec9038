"""docs/custom_dataset.md shows what there is to write and what is printed."""

import json
import shlex
import shutil

import pytest
import yaml

from balanced_lvis.commands.train import argument_parser
from balanced_lvis.config import load_config
from balanced_lvis.data.custom.registration import prepare_custom
from balanced_lvis.utils.errors import InputError
from tests import programs
from tests.common import CONFIGS, ROOT, SHARED_DATA
from tests.docs import blocks, shown_after

TEXT = (ROOT / "docs" / "custom_dataset.md").read_text(encoding="utf-8")
ANNOTATIONS = SHARED_DATA / "coco_tiny" / "annotations" / "instances_train2017.json"
needs_data = pytest.mark.skipif(not ANNOTATIONS.is_file(), reason="needs the developers' shared data")


def test_the_shown_yaml_is_that_of_the_configs_to_copy():
    (shown,) = blocks(TEXT, "yaml")
    shown = yaml.safe_load(shown)
    for path in (CONFIGS / "custom").glob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        assert config["DATASETS"] == shown["DATASETS"]
        assert config["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] == shown["MODEL"]["ROI_HEADS"]["NUM_CLASSES"]


def test_every_command_to_train_is_understood():
    lines = [shlex.split(line) for block in blocks(TEXT, "sh") for line in block.splitlines()]
    found = [line[1:] for line in lines if line[0] == "tools/train_net.py"]
    assert len(found) == 3
    for words in found:
        args = argument_parser().parse_args(words)
        load_config(CONFIGS / "custom" / "r50_balanced_sigmoid.yaml", args.opts)
    ((_, source, _),) = [line for line in lines if line[0] == "cp"]
    assert (ROOT / source).is_file()


@needs_data
def test_the_table_of_the_tail_is_the_shown_one(tmp_path):
    command = "tools/analyze_dataset.py instances_train2017.json --show 2"
    assert f"{command}\n" in blocks(TEXT, "sh")
    shutil.copy(ANNOTATIONS, tmp_path)
    done = programs.run(ROOT / "tools" / "analyze_dataset.py", *command.split()[1:], cwd=tmp_path)
    assert shown_after(TEXT, f"output of: {command}") in done.stdout


@needs_data
def test_other_categories_are_told_as_shown(tmp_path):
    content = json.loads(ANNOTATIONS.read_text())
    (tmp_path / "train.json").write_text(json.dumps(content))
    (dog,) = [category for category in content["categories"] if category["name"] == "dog"]
    dog["name"] = "panther"
    (tmp_path / "val.json").write_text(json.dumps(content))
    pairs = [(f"DATASETS.CUSTOM.my_{name}.JSON", str(tmp_path / f"{name}.json")) for name in ("train", "val")]
    cfg = load_config(CONFIGS / "custom" / "r50_balanced_sigmoid.yaml", [word for pair in pairs for word in pair])
    with pytest.raises(InputError) as caught:
        prepare_custom(cfg)
    told = f"error: {caught.value}".replace(f"{tmp_path}/", "")
    assert told == shown_after(TEXT, "output of: the example's val.json having other categories")
