"""Registration of the rendered dataset, and checks of the files of registered datasets."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_lvis_instances

from balanced_lvis.config import load_config
from balanced_lvis.data.annotations.class_names import check_num_classes
from balanced_lvis.data.config_datasets import prepare_rendered, rendered_root, rendered_spec
from balanced_lvis.data.dataset_files import check_datasets
from balanced_lvis.data.registered_files import evaluation_file_of
from balanced_lvis.data.rendered import read_spec
from balanced_lvis.data.training_prior import class_prior_of_dataset
from balanced_lvis.utils.errors import InputError
from tests.common import CONFIGS, rendered_opts


def test_the_rendered_data_set_loads_with_detectron2s_lvis_loader(rendered):
    records = DatasetCatalog.get("rendered_train")
    assert len(records) == 24
    content = json.loads((rendered / "annotations" / "rendered_train.json").read_text())
    assert sum(len(r["annotations"]) for r in records) == len(content["annotations"])
    for record in records:
        with open(record["file_name"], "rb") as file:
            assert file.read(2) == b"\xff\xd8"  # JPEG


def test_its_prior_is_counted_from_the_annotations_and_equals_the_files_own_counts(rendered):
    categories = json.loads((rendered / "annotations" / "rendered_val.json").read_text())["categories"]
    prior = class_prior_of_dataset("rendered_train")
    assert list(prior.class_names) == [c["name"] for c in categories]
    assert prior.image_count.tolist() == [c["image_count"] for c in categories]
    assert prior.instance_count.tolist() == [c["instance_count"] for c in categories]
    assert prior.groups().tolist() == [c["frequency"] for c in categories]


def test_a_config_renders_what_it_names_once(rendered, tmp_path):
    opts = rendered_opts(tmp_path / "data", tmp_path / "out")
    cfg = load_config(CONFIGS / "quick_start" / "sigmoid.yaml", opts)
    try:
        prepare_rendered(cfg)
        stamp = (tmp_path / "data" / "spec.json").stat().st_mtime_ns
        prepare_rendered(cfg)
        assert (tmp_path / "data" / "spec.json").stat().st_mtime_ns == stamp
        assert read_spec(tmp_path / "data") == rendered_spec(cfg)
        assert str(tmp_path / "data") in MetadataCatalog.get("rendered_train").json_file
    finally:
        from balanced_lvis.data.config_datasets import register_rendered

        register_rendered(rendered)


def test_other_parameters_live_in_another_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    roots = {rendered_root(load_config("", ["DATASETS.RENDERED.SEED", seed])) for seed in "012"}
    assert len(roots) == 3
    assert all(root.parent == tmp_path for root in roots)


def test_bad_parameters_of_the_rendered_data_set_are_named():
    with pytest.raises(InputError, match="num_classes"):
        rendered_spec(load_config("", ["DATASETS.RENDERED.NUM_CLASSES", "1204"]))


def test_lvis_priors_have_lvis_group_sizes():
    prior = class_prior_of_dataset("lvis_v1_train")
    groups = prior.groups().tolist()
    assert [groups.count(group) for group in "rcf"] == [337, 461, 405]


@pytest.fixture
def pets(tmp_path):
    register_lvis_instances(
        "pets", {"thing_classes": ["cat", "dog"]}, str(tmp_path / "pets.json"), str(tmp_path / "images/")
    )
    yield "pets"
    DatasetCatalog.remove("pets")
    MetadataCatalog.remove("pets")


def test_missing_files_of_any_data_set_are_listed_at_once(pets, tmp_path):
    with pytest.raises(InputError) as caught:
        check_datasets([pets, "lvis_v1_test_dev"])
    message = str(caught.value)
    assert f"{tmp_path / 'pets.json'}, for pets" in message
    assert f"{tmp_path / 'images'}, for pets" in message
    assert "lvis_v1_image_info_test_dev.json.zip" in message
    assert "test2017.zip" in message
    assert "balanced-lvis prepare-lvis` downloads" in message


def test_files_that_are_there_pass(pets, tmp_path):
    (tmp_path / "pets.json").touch()
    (tmp_path / "images").mkdir()
    check_datasets([pets])
    check_num_classes([pets], 2)
    assert evaluation_file_of(pets) == str(tmp_path / "pets.json")


def test_misspelt_names_and_wrong_sizes_are_explained(pets):
    with pytest.raises(InputError, match=r"'lvis_v1_trian' is not registered\. Did you mean lvis_v1_train"):
        check_datasets(["lvis_v1_trian"])
    with pytest.raises(InputError, match="NUM_CLASSES is 3, but dataset pets has 2 classes; set it to 2"):
        check_num_classes([pets], 3)
    with pytest.raises(InputError, match="'coco_2017_val' is registered in COCO format"):
        evaluation_file_of("coco_2017_val")
