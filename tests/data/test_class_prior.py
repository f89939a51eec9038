"""Class priors count the training images, or the images that the sampler yields."""

import functools
import json
import logging
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import load_lvis_json

from balanced_lvis.activations import centred_offset, foreground_offset, softmax_offset
from balanced_lvis.commands.train import argument_parser
from balanced_lvis.config import load_config
from balanced_lvis.data.annotations.counting import count_classes
from balanced_lvis.data.config_datasets import prepare_datasets
from balanced_lvis.data.samplers import build_sampler, class_repeat_factors
from balanced_lvis.data.training_prior import class_prior_from_config, class_prior_of_dataset
from balanced_lvis.data.training_set import training_records
from balanced_lvis.engine.run import check, read_config, run
from balanced_lvis.modeling.box_predictor import activation_from_config
from balanced_lvis.priors import ALL, WITH_OBJECTS, ClassPrior
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.run_files import SAVED_PRIOR
from tests import reference
from tests.common import CONFIGS, rendered_opts

SAMPLERS = (
    "TrainingSampler",
    "RepeatFactorTrainingSampler",
    "InstanceAwareRepeatFactorTrainingSampler",
    "ClassAwareTrainingSampler",
)
IMAGES, OCCUPIED = 1000, 100


def content(crowds=0) -> dict:
    """1,000 images of which 100 have an object, half of them a cat and half a dog; some others a crowd of cats."""
    images = [
        {
            "id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30, "coco_url": f"x/images/{i}.jpg",
            "not_exhaustive_category_ids": [], "neg_category_ids": [],
        }
        for i in range(1, IMAGES + 1)
    ]  # fmt: skip

    def annotation(number, category, iscrowd=0):
        return {
            "id": number, "image_id": number, "category_id": category, "bbox": [2, 2, 9, 9], "area": 81.0,
            "segmentation": [[2, 2, 11, 2, 11, 11, 2, 11]], "iscrowd": iscrowd,
        }  # fmt: skip

    annotations = [annotation(i + 1, 1 + i % 2) for i in range(OCCUPIED)]
    annotations += [annotation(OCCUPIED + 1 + i, 1, iscrowd=1) for i in range(crowds)]
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": names}


@pytest.fixture
def write(tmp_path):
    """Writes content as a file, with a folder that has some of the images."""

    def write(made, present=IMAGES):
        (tmp_path / "images").mkdir(exist_ok=True)
        for number in range(1, present + 1):
            (tmp_path / "images" / f"{number}.jpg").touch()
        (tmp_path / "pets.json").write_text(json.dumps(made))
        return tmp_path / "pets.json"

    return write


@pytest.fixture
def register():
    """Registers a loader for one test."""
    names = []

    def register(name, load, **metadata):
        names.append(name)
        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(thing_classes=["cat", "dog"], **metadata)
        class_prior_of_dataset.cache_clear()
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    class_prior_of_dataset.cache_clear()


def config(*opts, form="foreground"):
    words = ["MODEL.ROI_BOX_HEAD.ACTIVATION.NAME", "balanced_sigmoid", "MODEL.ROI_HEADS.NUM_CLASSES", "2"]
    words += ["MODEL.ROI_BOX_HEAD.ACTIVATION.BALANCED_SIGMOID.FORM", form, "DATASETS.TEST", "()"]
    return load_config("", [*words, *map(str, opts)])


def lvis_config(path, register, *opts, **metadata):
    """Records of a file in LVIS format, from an index."""
    ids = {"thing_dataset_id_to_contiguous_id": {1: 0, 2: 1}} if metadata.pop("ids", False) else {}
    load = functools.partial(load_lvis_json, str(path), f"{path.parent}/")
    register("empty_pets", load, json_file=str(path), image_root=str(path.parent / "images"), **ids)
    return config("DATASETS.TRAIN", "('empty_pets',)", *opts)


def custom_config(path, register, *opts):
    """Records of a file in COCO format under DATASETS.CUSTOM."""
    words = ["DATASETS.CUSTOM.my_pets.JSON", path, "DATASETS.CUSTOM.my_pets.IMAGES", path.parent / "images"]
    return config(*words, "DATASETS.TRAIN", "('my_pets',)", *opts)


def records_config(path, register, *opts):
    """Records of a custom loader."""
    by_image = {}
    for a in json.loads(path.read_text())["annotations"]:
        by_image.setdefault(a["image_id"], []).append(
            {"category_id": a["category_id"] - 1, "iscrowd": a["iscrowd"], "bbox": a["bbox"], "bbox_mode": 1}
        )
    records = [
        {"image_id": i, "file_name": f"{path.parent}/images/{i}.jpg", "annotations": by_image.get(i, [])}
        for i in range(1, IMAGES + 1)
    ]
    register("listed_pets", lambda: records)
    return config("DATASETS.TRAIN", "('listed_pets',)", *opts)


SOURCES = [(lvis_config, 0), (custom_config, 0), (custom_config, 7), (records_config, 0), (records_config, 7)]


@pytest.mark.parametrize(("source", "crowds"), SOURCES)
def test_images_that_are_not_trained_on_do_not_count(source, crowds, write, register):
    cfg = source(write(content(crowds)), register)
    prepare_datasets(cfg)
    prior = class_prior_from_config(cfg)
    assert (prior.num_images, prior.counted) == (OCCUPIED, WITH_OBJECTS)
    assert len(training_records(cfg)) == prior.num_images
    assert activation_from_config(cfg).offset.tolist() == [0, 0]


@pytest.mark.parametrize(("source", "crowds"), SOURCES)
def test_they_count_where_they_are_trained_on(source, crowds, write, register):
    cfg = source(write(content(crowds)), register, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", False)
    prepare_datasets(cfg)
    prior = class_prior_from_config(cfg)
    assert (prior.num_images, prior.counted) == (IMAGES, ALL)
    assert len(training_records(cfg)) == prior.num_images
    assert activation_from_config(cfg).offset.tolist() == pytest.approx([math.log(19)] * 2)  # 2.94


def test_the_tail_of_equalization_is_by_the_images_that_are_trained_on(write, register):
    opts = ["MODEL.ROI_BOX_HEAD.ACTIVATION.NAME", "equalization"]
    opts += ["MODEL.ROI_BOX_HEAD.ACTIVATION.EQUALIZATION.THRESHOLD", 0.1]
    cfg = lvis_config(write(content()), register, *opts)
    assert activation_from_config(cfg).tail.tolist() == [False, False]  # 50 of 100
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert activation_from_config(cfg).tail.tolist() == [True, True]  # 50 of 1,000


def test_images_that_are_not_on_the_disk_do_not_count_where_they_are_left_out(write, register):
    cfg = lvis_config(write(content(), present=60), register, "DATASETS.ALLOW_MISSING", True)
    prior = class_prior_from_config(cfg)
    assert (prior.num_images, prior.image_count.tolist()) == (60, [30, 30])
    assert len(training_records(cfg)) == 60
    assert activation_from_config(cfg).offset.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("flags", "allowed"), [(["--allow-missing"], True), (["--allow-missing", "--eval-only"], False)]
)
def test_an_evaluation_looks_for_no_training_image(flags, allowed):
    words = ["--config-file", str(CONFIGS / "r50_balanced_sigmoid.yaml"), *flags, "MODEL.DEVICE", "cpu"]
    cfg = read_config(argument_parser().parse_args(words))
    assert allowed == cfg.DATASETS.ALLOW_MISSING
    if not allowed:
        assert class_prior_from_config(cfg).num_images == 99_388  # without LVIS's files


def test_several_training_sets_add_up(write, register):
    path = write(content())
    cfg = lvis_config(path, register)
    records_config(path, register)
    cfg.DATASETS.TRAIN = ("empty_pets", "listed_pets")
    prior = class_prior_from_config(cfg)
    assert (prior.num_images, prior.image_count.tolist()) == (2 * OCCUPIED, [OCCUPIED, OCCUPIED])


def test_a_file_is_counted_alike(write):
    path = write(content(crowds=7))
    assert (count_classes(path).num_images, count_classes(path).counted) == (OCCUPIED, WITH_OBJECTS)
    assert (count_classes(path, filter_empty=False).num_images) == IMAGES
    made = content(crowds=7)
    made["annotations"] = made["annotations"][OCCUPIED:]
    with pytest.raises(InputError, match="7 annotations, all with .iscrowd."):
        count_classes(write(made))


def test_a_data_set_without_an_object_is_refused(write, register):
    made = content()
    made["annotations"] = []
    with pytest.raises(InputError, match="no images with objects"):
        class_prior_from_config(lvis_config(write(made), register))


def test_lvis_has_99388_images_with_objects():
    prior, whole = (class_prior_of_dataset("lvis_v1_train", filter_empty) for filter_empty in (True, False))
    assert (prior.num_images, whole.num_images) == (99_388, 100_170)
    assert foreground_offset(prior).min() == pytest.approx(3.8974, abs=1e-4)
    assert foreground_offset(prior).max() == pytest.approx(math.log(99_387), abs=1e-9)  # one image


@pytest.mark.parametrize("config_file", ["r50_eql.yaml", "r101_eql.yaml"])
def test_equalizations_tail_on_lvis_is_rare_common_and_17_classes_of_up_to_109_images(config_file):
    tail = activation_from_config(load_config(CONFIGS / config_file)).tail.numpy().astype(bool)
    prior = class_prior_of_dataset("lvis_v1_train")
    assert (tail == (prior.image_count <= 109)).all()
    assert tail.sum() == 798 + 17


# ------------------------------------------------------------------ what the sampler shows


def sampled(sampler, write, register, *opts):
    """60 images: 30 with a cat alone, 29 with dogs and a cat, one with an owl and dogs."""
    objects = [[0]] * 30 + [[1, 1, 0]] * 29 + [[2, 1, 1, 1]]
    records = [
        {"image_id": i, "file_name": f"{i}.jpg", "annotations": [annotation(c) for c in classes]}
        for i, classes in enumerate(objects)
    ]
    register("shown_pets", lambda: records)
    MetadataCatalog.get("shown_pets").thing_classes += ["owl"]
    words = ["DATASETS.TRAIN", "('shown_pets',)", "MODEL.CLASS_PRIOR.SAMPLED", True, "MODEL.ROI_HEADS.NUM_CLASSES", 3]
    return config(*words, "DATALOADER.SAMPLER_TRAIN", sampler, "DATALOADER.REPEAT_THRESHOLD", 0.6, *opts), objects


def annotation(category):
    return {"category_id": category, "iscrowd": 0, "bbox": [0, 0, 9, 9], "bbox_mode": 1}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_prior_of_the_stream_is_what_is_counted_in_it(sampler, write, register):
    cfg, objects = sampled(sampler, write, register)
    prior = class_prior_from_config(cfg)
    torch.manual_seed(0)
    np.random.seed(0)
    stream = build_sampler(cfg, training_records(cfg)).stream()
    shown = [objects[next(stream)] for _ in range(40_000)]
    seen = [sum(c in classes for classes in shown) / len(shown) for c in range(3)]
    instances = np.bincount(np.concatenate(shown), minlength=3)
    np.testing.assert_allclose(prior.image_frequency(), seen, rtol=0.1)
    np.testing.assert_allclose(prior.share("instance"), instances / instances.sum(), rtol=0.1)
    seen = np.array(seen)
    np.testing.assert_allclose(foreground_offset(prior), np.log((1 - seen) / seen), atol=0.15)
    np.testing.assert_allclose(centred_offset(prior), reference.balanced_sigmoid_offset_centred(seen), atol=0.15)


def test_repeat_factors_are_in_the_prior_as_the_formula_has_them(write, register):
    cfg, objects = sampled("RepeatFactorTrainingSampler", write, register)
    prior = class_prior_from_config(cfg)
    images, total = reference.images_shown(objects, 3, 0.6)
    np.testing.assert_allclose(prior.sampled_counts.image_count, images, rtol=1e-6)
    assert prior.sampled_counts.num_images == pytest.approx(total, rel=1e-6)
    assert images[2] == pytest.approx(6)  # sqrt(0.6 / (1 / 60)): one owl is shown six times


def test_the_power_of_the_repeat_factors_is_in_the_prior_and_in_its_file(write, register, tmp_path):
    name = "RepeatFactorTrainingSampler"
    power = f"DATALOADER.SAMPLER.{name.upper()}.POWER"
    cfg, objects = sampled(name, write, register, power, 0.8)
    prior = class_prior_from_config(cfg)
    images, _ = reference.images_shown(objects, 3, 0.6, power=0.8)
    np.testing.assert_allclose(prior.sampled_counts.image_count, images, rtol=1e-6)
    assert prior.sampled_counts.sampler == f"{name}, threshold 0.6, power 0.8"
    prior.save(tmp_path / "prior.json")
    cfg.MODEL.CLASS_PRIOR.FILE = str(tmp_path / "prior.json")
    class_prior_from_config(cfg)
    cfg.DATALOADER.SAMPLER[name.upper()].POWER = 0.5
    with pytest.raises(InputError, match=f"'{name}, threshold 0.6', but .* has the counts of '{name}.*power 0.8'"):
        class_prior_from_config(cfg)


def test_groups_and_repeat_factors_stay_those_of_the_data_set(write, register):
    cfg, _ = sampled("RepeatFactorTrainingSampler", write, register)
    prior = class_prior_from_config(cfg)
    cfg.MODEL.CLASS_PRIOR.SAMPLED = False
    plain = class_prior_from_config(cfg)
    assert plain.sampled_counts is None
    assert prior.groups().tolist() == plain.groups().tolist() == ["c", "c", "r"]
    assert class_repeat_factors(prior, 0.6).tolist() == class_repeat_factors(plain, 0.6).tolist()
    assert prior.image_count.tolist() == plain.image_count.tolist()
    assert foreground_offset(prior)[2] < foreground_offset(plain)[2] - 1


def test_a_sampler_that_repeats_nothing_shows_the_data_set(write, register):
    cfg, _ = sampled("TrainingSampler", write, register)
    prior = class_prior_from_config(cfg)
    cfg.MODEL.CLASS_PRIOR.SAMPLED = False
    for values in (foreground_offset, centred_offset, softmax_offset, ClassPrior.image_frequency):
        assert values(prior).tolist() == values(class_prior_from_config(cfg)).tolist()


@pytest.mark.parametrize("sampler", ["RandomSubsetTrainingSampler", "WeightedTrainingSampler"])
def test_a_sampler_whose_showings_are_not_known_is_refused(sampler, write, register):
    cfg, _ = sampled(sampler, write, register)
    with pytest.raises(InputError, match=f"{sampler} are unknown.*ClassAwareTrainingSampler"):
        class_prior_from_config(cfg)


def test_no_random_number_is_drawn_for_it(write, register):
    cfg, _ = sampled("RepeatFactorTrainingSampler", write, register)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    class_prior_from_config(cfg)
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_a_saved_prior_has_both_counts_and_belongs_to_its_sampler(write, register, tmp_path):
    cfg, _ = sampled("RepeatFactorTrainingSampler", write, register)
    prior = class_prior_from_config(cfg)
    prior.save(tmp_path / "prior.json")
    cfg.MODEL.CLASS_PRIOR.FILE = str(tmp_path / "prior.json")
    loaded = class_prior_from_config(cfg)
    assert foreground_offset(loaded).tolist() == foreground_offset(prior).tolist()
    assert loaded.image_count.tolist() == prior.image_count.tolist()
    assert loaded.counted == prior.counted
    for key, value, message in (
        ("REPEAT_THRESHOLD", 0.5, "threshold 0.5'.*has the counts of 'RepeatFactorTrainingSampler, threshold 0.6'"),
        ("SAMPLER_TRAIN", "TrainingSampler", "'TrainingSampler', but .*prior.json has the counts of 'RepeatFactor"),
    ):
        other = cfg.clone()
        other.DATALOADER[key] = value
        with pytest.raises(InputError, match=message):
            class_prior_from_config(other)
    cfg.MODEL.CLASS_PRIOR.SAMPLED = False
    assert class_prior_from_config(cfg).sampled_counts is None
    class_prior_from_config(cfg).save(tmp_path / "prior.json")
    cfg.MODEL.CLASS_PRIOR.SAMPLED = True
    with pytest.raises(InputError, match="has the counts of no sampler"):
        class_prior_from_config(cfg)


def test_training_by_it_saves_it_and_evaluates_with_it(rendered, tmp_path):
    opts = [*rendered_opts(rendered, tmp_path), "SOLVER.MAX_ITER", "1", "DATALOADER.REPEAT_THRESHOLD", "0.5"]
    words = ["--config-file", str(CONFIGS / "rendered" / "balanced_sigmoid_sampled.yaml")]

    def start(*more):
        args = argument_parser().parse_args([*words, *more])
        cfg = read_config(args)
        check(cfg, args)
        return cfg, run(cfg, args)

    start(*opts)
    saved = ClassPrior.load(tmp_path / SAVED_PRIOR)
    assert saved.sampled_counts.sampler == "RepeatFactorTrainingSampler, threshold 0.5"
    assert saved.sampled_counts.num_images > saved.num_images == 24
    cfg, _ = start("--eval-only", *opts, "MODEL.WEIGHTS", str(tmp_path / "model_final.pth"))
    assert str(tmp_path / SAVED_PRIOR) == cfg.MODEL.CLASS_PRIOR.FILE


# ------------------------------------------------------------------ files


def test_a_file_of_an_older_version_is_read_and_said_to_count_all_images(tmp_path, caplog):
    content = {"format": "balanced_lvis class prior 1", "num_images": 9}
    classes = [{"name": "a", "image_count": 3, "instance_count": None}]
    (tmp_path / "old.json").write_text(json.dumps({**content, "classes": classes}))
    with caplog.at_level(logging.WARNING, logger="balanced_lvis"):
        prior = ClassPrior.load(tmp_path / "old.json")
    assert (prior.num_images, prior.counted, prior.sampled_counts) == (9, "", None)
    assert "old.json doesn't state which images its num_images (9) counts" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="balanced_lvis"):
        ClassPrior(("a",), [3], 9, counted=WITH_OBJECTS).save(tmp_path / "new.json")
        assert ClassPrior.load(tmp_path / "new.json").counted == WITH_OBJECTS
    assert not caplog.records


@pytest.mark.parametrize(
    ("shown", "counts", "message"),
    [
        ({"sampler": "x"}, (1.5, 2.5), "incomplete"),
        ("x", (1.5, 2.5), "malformed"),
        ([], (1.5, 2.5), "malformed"),
        ({"sampler": "x", "num_images": "many"}, (1.5, 2.5), "num_images must be finite"),
        ({"sampler": "x", "num_images": 0.5}, (0.2, 2.5), "at least 1"),
        ({"sampler": "x", "num_images": 3}, (3.5, 9), "no less than any image_count"),
        ({"sampler": "x", "num_images": 3}, (-1, 9), "image_count must be finite and >= 0"),
        ({"sampler": "x", "num_images": 3}, (1.5, None), "instance_count must be finite"),
        ({"sampler": "x", "num_images": 3}, (1.5, [1]), "instance_count must be finite"),
        ({"sampler": "x", "num_images": 1e400}, (1.5, 2), "num_images must be finite"),
    ],
)
def test_bad_showings_are_named(tmp_path, shown, counts, message):
    record = {"name": "a", "image_count": 3, "instance_count": 4}
    record.update(zip(("shown_image_count", "shown_instance_count"), counts))
    content = {"format": "balanced_lvis class prior 1", "num_images": 9, "counted": ALL, "shown": shown}
    (tmp_path / "prior.json").write_text(json.dumps({**content, "classes": [record]}))
    with pytest.raises(InputError, match=message):
        ClassPrior.load(tmp_path / "prior.json")


def test_showings_are_not_merged(write, register):
    prior = class_prior_from_config(sampled("TrainingSampler", write, register)[0])
    with pytest.raises(InputError, match="sampled counts can't be added"):
        ClassPrior.merge([prior, prior])
