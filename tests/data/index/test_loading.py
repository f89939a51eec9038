"""What is read by an index: datasets, priors, samplers and batches."""

import functools
import itertools
import os
import pickle

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import register_coco_instances, register_lvis_instances
from detectron2.data.datasets.lvis import load_lvis_json
from detectron2.engine import DefaultTrainer

from balanced_lvis.data.dataset_records import load_records
from balanced_lvis.data.index import LVISRecords, open_index, opening
from balanced_lvis.data.loader import build_train_loader
from balanced_lvis.data.registered_files import LVISSource, lvis_source
from balanced_lvis.data.samplers import build_sampler, class_repeat_factors
from balanced_lvis.data.training_prior import class_prior_of_dataset
from balanced_lvis.engine.trainer import Trainer
from balanced_lvis.priors import ClassPrior, HasClassLists
from balanced_lvis.utils.errors import InputError
from tests.data.index.made import (
    ROOT,
    SMALL,
    K,
    annotation,
    content,
    image,
    ours,
    register_plainly,
    same_size_other_content,
    stock,
    write,
)


def test_priors_and_samplers_make_no_records_and_equal_those_of_records(rendered, tiny_cfg, monkeypatch):
    expected = get_detection_dataset_dicts("rendered_train")
    cfg = tiny_cfg.clone()
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.3
    names = [
        "TrainingSampler",
        "RepeatFactorTrainingSampler",
        "InstanceAwareRepeatFactorTrainingSampler",
        "ClassAwareTrainingSampler",
    ]
    class_prior_of_dataset.cache_clear()
    prior = ClassPrior.from_dataset_dicts(DatasetCatalog.get("rendered_train"), map(str, range(12)))
    monkeypatch.setattr(LVISRecords, "__getitem__", None)
    assert class_prior_of_dataset("rendered_train").image_count.tolist() == prior.image_count.tolist()
    records = load_records("rendered_train")
    assert isinstance(records, HasClassLists)
    for name in names:
        streams = []
        for images in (records, expected):
            sampler = build_sampler(cfg, images, name)
            sampler.seed = 5
            streams.append(list(itertools.islice(sampler, 300)))
        assert streams[0] == streams[1], name


def test_repeat_factors_without_the_square_root_are_those_of_later_detectron2s(rendered):
    prior = class_prior_of_dataset("rendered_train")
    frequency = prior.image_count / prior.num_images
    np.testing.assert_array_equal(class_repeat_factors(prior, 0.3, power=1), np.maximum(1, 0.3 / frequency))


def equal_batches(one, other):
    one, other = list(one), list(other)
    assert len(one) == len(other) > 0
    for a, b in zip(one, other):
        assert [record["image_id"] for record in a] == [record["image_id"] for record in b]
        for left, right in zip(a, b):
            assert torch.equal(left["image"], right["image"])
            if "instances" in left:
                assert torch.equal(left["instances"].gt_boxes.tensor, right["instances"].gt_boxes.tensor)
                assert torch.equal(left["instances"].gt_classes, right["instances"].gt_classes)
                masks = (left["instances"].gt_masks.polygons, right["instances"].gt_masks.polygons)
                assert all(np.array_equal(p, q) for x, y in zip(*masks) for p, q in zip(x, y))


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_are_bit_for_bit_those_without_an_index(rendered, tiny_cfg, monkeypatch, workers):
    cfg = tiny_cfg.clone()
    cfg.DATALOADER.NUM_WORKERS = workers
    batches = []
    for mode in ("", "off"):
        monkeypatch.setenv(opening.MODE, mode)
        np.random.seed(3)
        torch.manual_seed(3)
        batches.append(list(itertools.islice(build_train_loader(cfg), 8)))
    equal_batches(*batches)


def test_the_test_loader_is_detectron2s(rendered, tiny_cfg):
    cfg = tiny_cfg.clone()
    cfg.DATALOADER.NUM_WORKERS = 0
    loaders = [trainer.build_test_loader(cfg, "rendered_val") for trainer in (Trainer, DefaultTrainer)]
    assert isinstance(loaders[0].dataset._dataset, LVISRecords)
    equal_batches(*loaders)


def test_a_pickled_data_set_is_a_path(tmp_path):
    records = ours(write(tmp_path), filter_empty=True)
    data = pickle.dumps(records)
    assert len(data) < 1000
    assert list(pickle.loads(data)) == list(records)
    same_size_other_content(tmp_path / "annotations.json")
    open_index(tmp_path / "annotations.json")
    with pytest.raises(InputError, match="was replaced since the job started"):
        pickle.loads(data)
    os.unlink(tmp_path / "annotations.json.index")
    with pytest.raises(InputError, match="has disappeared"):
        pickle.loads(data)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_the_same_records_however_they_are_started(tmp_path, start):
    records = ours(write(tmp_path))
    loader = torch.utils.data.DataLoader(
        records, batch_size=None, num_workers=1, multiprocessing_context=start, collate_fn=None
    )
    assert list(loader) == list(records)


def test_several_data_sets_follow_one_another(tmp_path, register):
    (tmp_path / "other").mkdir()
    others = content([image(9), image(8)], [annotation(1, 8, 4)])
    names = [
        register(register_plainly, name, write(folder, what))
        for name, folder, what in (("first", tmp_path, SMALL), ("second", tmp_path / "other", others))
    ]
    for filter_empty in (False, True):
        records, expected = load_records(names, filter_empty), get_detection_dataset_dicts(names, filter_empty)
        assert list(records) == expected
        assert [records[i] for i in range(-len(records), 0)] == expected
        with pytest.raises(IndexError):
            records[len(records)]
        assert list(pickle.loads(pickle.dumps(records))) == expected
        assert len(records.aspect_ratio_groups()) == len(records)
        priors = [ClassPrior.from_dataset_dicts(images, map(str, range(K))) for images in (records, expected)]
        assert priors[0].image_count.tolist() == priors[1].image_count.tolist()
        assert priors[0].instance_count.tolist() == priors[1].instance_count.tolist()
    MetadataCatalog.pop("second")
    MetadataCatalog.get("second").thing_classes = ["other"] * K
    with pytest.raises(InputError, match="first and second have different classes"):
        load_records(names)


def test_categories_are_mapped_where_the_metadata_says_how(tmp_path, register):
    path = write(tmp_path, content([image(1)], [annotation(1, 1, 90), annotation(2, 1, 1)]))
    name = register(register_lvis_instances, "own_cocofied", {}, path, ROOT)
    expected = get_detection_dataset_dicts(name)
    assert [a["category_id"] for a in expected[0]["annotations"]] == [79, 0]
    records = load_records(name)
    assert list(records) == expected
    assert list(pickle.loads(pickle.dumps(records))) == expected
    assert records.class_lists().classes.tolist() == [79, 0]
    write(tmp_path, content([image(1)], [annotation(1, 1, 12)]))
    with pytest.raises(InputError, match="category_id 12, which the dataset's metadata"):
        load_records(name)


def test_only_what_detectron2s_lvis_loader_reads_is_indexed(rendered, tmp_path, register):
    assert lvis_source("lvis_v1_train").json_file.endswith("lvis/lvis_v1_train.json")
    assert lvis_source("lvis_v1_train").dataset_name == "lvis_v1_train"
    assert lvis_source("rendered_val").dataset_name is None
    path = write(tmp_path)
    source = LVISSource(path, ROOT, "mine_v1")
    assert lvis_source(register(register_lvis_instances, "mine_v1", {}, path, ROOT)) == source
    assert lvis_source(register(register_plainly, "mine", path)) == LVISSource(path, ROOT)
    assert lvis_source(register(register_coco_instances, "coco_like", {}, path, ROOT)) is None
    extra = functools.partial(load_lvis_json, path, ROOT, extra_annotation_keys=["id"])
    assert lvis_source(register(DatasetCatalog.register, "with_extras", extra)) is None
    assert lvis_source(register(DatasetCatalog.register, "own", lambda: stock(path))) is None
    assert lvis_source("nowhere") is None
    assert load_records(["own", "mine"]) == get_detection_dataset_dicts(["own", "mine"])


def test_a_custom_loader_is_called_whatever_its_metadata(tmp_path, register):
    path, records = write(tmp_path), [{"file_name": "a.jpg", "height": 4, "width": 4, "annotations": [{}]}]
    name = register(DatasetCatalog.register, "with_metadata", lambda: records)
    MetadataCatalog.get(name).set(json_file=path, image_root=ROOT, evaluator_type="lvis")
    assert lvis_source(name) is None
    assert load_records(name, filter_empty=False) == records


def test_a_name_that_is_registered_again_is_read_by_its_new_loader(tmp_path, register):
    path = write(tmp_path)
    name = register(register_lvis_instances, "mine_v1", {}, path, ROOT)
    DatasetCatalog.remove(name)
    DatasetCatalog.register(name, lambda: [])
    assert lvis_source(name) is None


def test_classes_that_the_metadata_does_not_have_are_named(tmp_path, register):
    path = write(tmp_path, content([image(1)], [annotation(1, 1, K + 1)]))
    with pytest.raises(InputError, match="Image 1 has category_id 6, but there are only 6 classes"):
        load_records(register(register_plainly, "too_many", path))


def test_a_name_that_detectron2_has_no_metadata_for_is_explained(tmp_path, register):
    name = register(register_lvis_instances, "pets", {}, write(tmp_path), ROOT)
    with pytest.raises(InputError, match="'pets': No built-in metadata.*functools.partial"):
        load_records(name)
