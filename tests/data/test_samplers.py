import functools
import itertools
import json
import logging
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog, build_detection_train_loader
from detectron2.data import samplers as detectron2_samplers
from detectron2.utils import comm
from hypothesis import given, settings
from hypothesis import strategies as st

from balanced_lvis.config import default_config
from balanced_lvis.data.samplers import (
    ClassAwareTrainingSampler,
    Detectron2Sampler,
    InstanceAwareRepeatFactorTrainingSampler,
    ResumableSampler,
    build_sampler,
    check_sampler,
    check_sampler_keys,
    class_repeat_factors,
    image_repeat_factors,
    register_sampler,
    sampler_names,
    times_shown,
)
from balanced_lvis.priors import ClassLists, ClassPrior
from balanced_lvis.utils.errors import InputError
from tests import reference
from tests.common import SHARED_DATA

# Classes of each image, one entry per instance. Class 5 is in no image, the last image holds nothing.
IMAGES = [[0, 0, 1], [0], [0, 2], [0, 1, 3], [0, 0, 0, 0], [0, 4], [1, 0], [2, 2, 2], [0], []]
K = 6
RESUMABLE = (
    "TrainingSampler",
    "RepeatFactorTrainingSampler",
    "ClassAwareTrainingSampler",
    "InstanceAwareRepeatFactorTrainingSampler",
)
DETECTRON2_ONLY = ("RandomSubsetTrainingSampler", "WeightedTrainingSampler", "WeightedCategoryTrainingSampler")


def records(images=IMAGES):
    return [
        {"image_id": i, "width": 8, "height": 8, "annotations": [{"category_id": c, "iscrowd": 0} for c in classes]}
        for i, classes in enumerate(images)
    ]


def config(**dataloader):
    cfg = default_config()
    cfg.DATASETS.TRAIN = ()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = K
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.5
    cfg.SOLVER.IMS_PER_BATCH = 4
    for key, value in dataloader.items():
        cfg.DATALOADER[key] = value
    return cfg


def built(name, seed=7):
    sampler = build_sampler(config(), records(), name)
    sampler.seed = seed
    return sampler


def with_power(name, power):
    cfg = config(SAMPLER_TRAIN=name)
    cfg.DATALOADER.SAMPLER[name.upper()].POWER = power
    return build_sampler(cfg, records())


def take(iterable, count):
    return list(itertools.islice(iterable, count))


def as_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)
    monkeypatch.setattr(comm, "shared_random_seed", lambda: 0)


# ------------------------------------------------------------------ what holds for all


@pytest.mark.parametrize("name", RESUMABLE)
def test_the_same_seed_gives_the_same_stream_and_another_seed_another(name):
    first = take(built(name, seed=3), 200)
    assert take(built(name, seed=3), 200) == first
    assert take(built(name, seed=4), 200) != first


@pytest.mark.parametrize("name", RESUMABLE)
def test_iterations_of_one_sampler_do_not_disturb_each_other(name):
    sampler = built(name)
    expected = take(sampler, 100)
    one, other = iter(sampler), iter(sampler)
    torch.manual_seed(99)  # nor does the global generator
    interleaved = [(next(one), next(other)) for _ in range(100)]
    assert [a for a, _ in interleaved] == [b for _, b in interleaved] == expected


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("name", RESUMABLE)
def test_ranks_share_one_stream_without_duplicates(monkeypatch, name, world_size):
    stream = take(built(name).stream(), 120)
    shares = []
    for rank in range(world_size):
        as_rank(monkeypatch, rank, world_size)
        shares.append(take(built(name), 120 // world_size))
    assert [index for together in zip(*shares) for index in together] == stream


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("name", RESUMABLE)
def test_resuming_at_any_position_goes_on_with_the_same_stream(monkeypatch, name, world_size):
    before = built(name)
    stream = take(before.stream(), 120)
    for consumed in (0, 1, 5, 9, 10, 11, 43, 80):
        shares = []
        for rank in range(world_size):
            as_rank(monkeypatch, rank, world_size)
            sampler = built(name, seed=0)
            sampler.load_state_dict(json.loads(json.dumps(before.state_dict(consumed))))
            assert (sampler.seed, sampler.start) == (7, consumed)
            shares.append(take(sampler, 40 // world_size))
        assert [index for together in zip(*shares) for index in together] == stream[consumed : consumed + 40]


@pytest.mark.parametrize("name", RESUMABLE)
def test_resuming_twice_counts_from_the_beginning_of_the_stream(name):
    stream = take(built(name), 60)
    second = built(name, seed=0)
    second.load_state_dict(built(name).state_dict(20))
    third = built(name, seed=0)
    third.load_state_dict(second.state_dict(10))
    assert take(third, 30) == stream[30:]


@pytest.mark.parametrize("name", RESUMABLE)
def test_a_sampler_survives_the_way_to_a_spawned_worker(name):
    sampler = built(name)
    sampler.load_state_dict({"seed": 5, "start": 13})
    assert take(pickle.loads(pickle.dumps(sampler)), 50) == take(sampler, 50)


@pytest.mark.parametrize("name", RESUMABLE)
def test_without_a_seed_all_processes_agree_on_one(monkeypatch, name):
    monkeypatch.setattr(comm, "shared_random_seed", lambda: np.int64(1234))
    sampler = build_sampler(config(), records(), name)
    assert sampler.seed == 1234
    assert type(sampler.seed) is int, "checkpoints should hold plain numbers"


@pytest.mark.parametrize("aspect_ratio_grouping", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("name", RESUMABLE)
def test_samplers_work_through_detectron2s_loader(name, num_workers, aspect_ratio_grouping):
    sampler = built(name)
    sampler.load_state_dict({"seed": 7, "start": 6})
    cfg = config(NUM_WORKERS=num_workers, ASPECT_RATIO_GROUPING=aspect_ratio_grouping)
    loader = build_detection_train_loader(cfg, dataset=records(), mapper=dict, sampler=sampler)
    batches = take(loader, 10)
    seen = [record["image_id"] for batch in batches for record in batch]
    assert sorted(seen) == sorted(take(sampler.stream(), 46)[6:])


# ------------------------------------------------------------------ Detectron2's own


@pytest.mark.parametrize("world_size", [1, 3])
def test_the_wrapper_yields_detectron2s_own_stream_over_several_epochs(monkeypatch, world_size):
    factors = torch.tensor([1.0, 1.5, 2.25, 9.9, 1.0, 3.1])
    for make in (
        functools.partial(detectron2_samplers.TrainingSampler, 11),
        functools.partial(detectron2_samplers.TrainingSampler, 11, shuffle=False),
        functools.partial(detectron2_samplers.RepeatFactorTrainingSampler, factors),
    ):
        for rank, seed in itertools.product(range(world_size), (0, 123)):
            as_rank(monkeypatch, rank, world_size)
            assert take(Detectron2Sampler(make, seed), 100) == take(make(seed=seed), 100)


@pytest.mark.parametrize("name", ["TrainingSampler", "RepeatFactorTrainingSampler"])
def test_detectron2s_samplers_are_those_that_its_own_loader_would_build(monkeypatch, name):
    cfg = config(SAMPLER_TRAIN=name, NUM_WORKERS=0, ASPECT_RATIO_GROUPING=False)
    monkeypatch.setattr(comm, "shared_random_seed", lambda: 5)
    for seed in (-1, 7):  # older versions draw a seed for their loader, newer ones take the config's
        cfg.SEED = seed
        with monkeypatch.context() as patch:
            used = seeds_of(patch, getattr(detectron2_samplers, name))
            theirs = build_detection_train_loader(cfg, dataset=records(), mapper=dict)
        sampler = build_sampler(cfg, records())
        (sampler.seed,) = used
        ours = build_detection_train_loader(cfg, dataset=records(), mapper=dict, sampler=sampler)
        batches = [[[r["image_id"] for r in batch] for batch in take(loader, 12)] for loader in (theirs, ours)]
        assert batches[0] == batches[1]


def seeds_of(monkeypatch, cls) -> list[int]:
    """The seeds of the samplers of a class that are made from now on."""
    seeds, make = [], cls.__init__

    @functools.wraps(make)
    def noted(self, *args, seed=None, **kwargs):
        seeds.append(comm.shared_random_seed() if seed is None else seed)
        make(self, *args, seed=seed, **kwargs)

    monkeypatch.setattr(cls, "__init__", noted)
    return seeds


# ------------------------------------------------------------------ class-aware sampling


def test_every_cycle_visits_every_class_once():
    images = [[0], [1], [2], [0], [1], [0], [0]]  # one class per image, so that the image tells the class
    stream = take(ClassAwareTrainingSampler(records(images), 3, seed=0), 3 * 50)
    cycles = [tuple(images[i][0] for i in stream[at : at + 3]) for at in range(0, 150, 3)]
    assert all(sorted(cycle) == [0, 1, 2] for cycle in cycles)
    assert len(set(cycles)) == 6, "in random order"


def test_a_classs_images_are_each_shown_once_before_any_is_shown_again():
    images = [[0]] * 5 + [[1]] * 2
    stream = take(ClassAwareTrainingSampler(records(images), 2, seed=1), 2 * 100)
    of_class_0 = [index for index in stream if index < 5]
    rounds = [tuple(of_class_0[at : at + 5]) for at in range(0, 100, 5)]
    assert all(sorted(one) == list(range(5)) for one in rounds)
    assert len(set(rounds)) > 10, "shuffled again every time"
    assert Counter(stream) == {**dict.fromkeys(range(5), 20), **dict.fromkeys((5, 6), 50)}


def test_images_of_several_classes_are_drawn_for_each_of_them():
    cycles = 2520  # a multiple of every class's number of images: all counts are exact
    stream = take(ClassAwareTrainingSampler(records(), K, seed=0), 5 * cycles)
    holders = {c: [i for i, classes in enumerate(IMAGES) if c in classes] for c in range(5)}
    expected = Counter()
    for images in holders.values():
        for index in images:
            expected[index] += cycles // len(images)
    assert Counter(stream) == expected
    assert 9 not in expected, "nothing is in the last image"


def test_crowd_regions_do_not_count():
    images = records([[0], [1], [1]])
    images[1]["annotations"][0]["iscrowd"] = 1
    assert set(take(ClassAwareTrainingSampler(images, 2, seed=0), 50)) == {0, 2}


def test_classes_without_images_are_left_out_and_reported_once(caplog):
    names = [f"kept_{i}" for i in range(2)] + [f"missed_{i}" for i in range(12)]
    with caplog.at_level(logging.WARNING, logger="balanced_lvis"):
        for _ in range(3):
            sampler = ClassAwareTrainingSampler(records([[0], [1], [1]]), names, seed=0)
    assert Counter(take(sampler, 400)) == {0: 200, 1: 100, 2: 100}
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("12 class(es)")
    assert "missed_9, ..." in message
    assert "missed_10" not in message
    assert "kept" not in message


# ------------------------------------------------------------------ repeat factors


images_of_classes = st.lists(st.lists(st.integers(0, K - 1), max_size=5), min_size=1, max_size=30)


@settings(deadline=None)
@given(images_of_classes, st.floats(0, 1))
def test_repeat_factors_equal_naive_loops_and_detectron2s(images, threshold):
    prior = ClassPrior.from_dataset_dicts(records(images), map(str, range(K)))
    by_image, by_both = (
        image_repeat_factors(records(images), class_repeat_factors(prior, threshold, by)).numpy()
        for by in ("image", "image_and_instance")
    )
    np.testing.assert_allclose(by_image, reference.image_repeat_factors(images, threshold, False), rtol=1e-6)
    np.testing.assert_allclose(by_both, reference.image_repeat_factors(images, threshold, True), rtol=1e-6)
    detectron2s = detectron2_samplers.RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    assert by_image.tolist() == detectron2s(records(images), threshold).tolist()


@settings(deadline=None)
@given(images_of_classes, st.floats(0, 1), st.floats(0, 3), st.booleans())
def test_any_power_equals_naive_loops(images, threshold, power, with_instances):
    prior = ClassPrior.from_dataset_dicts(records(images), map(str, range(K)))
    by = "image_and_instance" if with_instances else "image"
    factors = image_repeat_factors(records(images), class_repeat_factors(prior, threshold, by, power)).numpy()
    expected = reference.image_repeat_factors(images, threshold, with_instances, power)
    np.testing.assert_allclose(factors, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["RepeatFactorTrainingSampler", "InstanceAwareRepeatFactorTrainingSampler"])
@pytest.mark.parametrize("power", [0.0, 0.3, 0.5, 1.0, 2.0])
def test_the_config_sets_the_power_of_repeat_factors(name, power):
    cfg = config(SAMPLER_TRAIN=name)
    assert cfg.DATALOADER.SAMPLER[name.upper()].POWER == 0.5
    cfg.DATALOADER.SAMPLER[name.upper()].POWER = power
    expected = reference.image_repeat_factors(IMAGES, 0.5, name.startswith("Instance"), power)
    for images in (records(), Indexed(records())):
        factors = times_shown(cfg, images)
        np.testing.assert_allclose(factors, expected, rtol=1e-6)
        sampler = build_sampler(cfg, images)
        sampler.seed = 3
        detectron2s = detectron2_samplers.RepeatFactorTrainingSampler(torch.tensor(factors).float(), seed=3)
        assert take(sampler, 200) == take(detectron2s, 200)
    assert (max(factors) == 1) == (power == 0)


class Indexed(list):
    """Records with class lists, as an index has."""

    def class_lists(self):
        return ClassLists.of(list(self))


@pytest.mark.parametrize("name", ["RepeatFactorTrainingSampler", "InstanceAwareRepeatFactorTrainingSampler"])
def test_without_detectron2s_square_root_the_power_is_1(name, monkeypatch):
    """``REPEAT_SQRT`` is a key of newer versions of Detectron2, whose function takes ``sqrt``."""
    stock = detectron2_samplers.RepeatFactorTrainingSampler.repeat_factors_from_category_frequency

    def newer(dataset_dicts, repeat_thresh, sqrt=True):
        assert not sqrt
        return stock(dataset_dicts, repeat_thresh) ** 2

    monkeypatch.setattr(
        detectron2_samplers.RepeatFactorTrainingSampler, "repeat_factors_from_category_frequency", staticmethod(newer)
    )
    cfg = config(SAMPLER_TRAIN=name)
    cfg.DATALOADER.REPEAT_SQRT = False
    expected = reference.image_repeat_factors(IMAGES, 0.5, name.startswith("Instance"), 1.0)
    for power in (0.5, 1):
        cfg.DATALOADER.SAMPLER[name.upper()].POWER = power
        for images in (records(), Indexed(records())):
            np.testing.assert_allclose(times_shown(cfg, images), expected, rtol=1e-6)
    cfg.DATALOADER.SAMPLER[name.upper()].POWER = 0.7
    with pytest.raises(InputError, match=f"{name.upper()}.POWER is 0.7, but DATALOADER.REPEAT_SQRT False stands for 1"):
        times_shown(cfg, records())


def test_repeat_factors_of_real_annotations():
    path = SHARED_DATA / "lvis_val_100.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    content = json.loads(path.read_text())
    of_image = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        of_image[annotation["image_id"]].append(annotation["category_id"] - 1)
    images, names = list(of_image.values()), [c["name"] for c in content["categories"]]
    prior = ClassPrior.from_dataset_dicts(records(images), names)
    detectron2s = detectron2_samplers.RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    for threshold in (0.001, 0.02, 0.3):
        by_image = image_repeat_factors(records(images), class_repeat_factors(prior, threshold))
        assert torch.equal(by_image, detectron2s(records(images), threshold))
        irfs = InstanceAwareRepeatFactorTrainingSampler(records(images), names, threshold, seed=0)
        expected = reference.image_repeat_factors(images, threshold, True)
        np.testing.assert_allclose(irfs.repeat_factors.numpy(), expected, rtol=1e-6)
    assert by_image.max() > 5
    assert (irfs.repeat_factors > by_image).any()


def test_instance_aware_sampling_is_detectron2s_with_other_factors():
    sampler = InstanceAwareRepeatFactorTrainingSampler(records(), list("abcdef"), 0.5, seed=11)
    expected = torch.tensor(reference.image_repeat_factors(IMAGES, 0.5, True))
    detectron2s = detectron2_samplers.RepeatFactorTrainingSampler(expected, seed=11)
    torch.testing.assert_close(sampler.repeat_factors, expected)
    assert take(sampler, 200) == take(detectron2s, 200)


def test_a_class_of_few_images_and_instances_is_repeated_as_the_formula_says():
    prior = ClassPrior(("rare", "frequent"), [1, 900], 1000, [4, 3996])
    assert class_repeat_factors(prior, 0.01).tolist() == pytest.approx([10**0.5, 1])
    assert class_repeat_factors(prior, 0.01, "image_and_instance").tolist() == pytest.approx([10**0.5, 1])
    assert class_repeat_factors(prior, 0).tolist() == [1, 1]
    assert class_repeat_factors(ClassPrior(("a",), [10], 10), 1).tolist() == [1], "a class in every image, exactly"


def test_zero_counts_are_taken_as_half_a_count():
    prior = ClassPrior(("none", "some"), [0, 4], 8, [0, 10])
    assert class_repeat_factors(prior, 0.25)[0] == pytest.approx((0.25 / (0.5 / 8)) ** 0.5)
    both = class_repeat_factors(prior, 0.25, "image_and_instance")
    assert both[0] == pytest.approx((0.25 / (0.5 / 8 * 0.5 / 10) ** 0.5) ** 0.5)
    nothing = ClassPrior(("none",), [0], 8, [0])
    assert np.isfinite(class_repeat_factors(nothing, 0.25, "image_and_instance")).all()


def test_crowd_regions_do_not_repeat_an_image():
    images = records([[0], [0], [0, 1]])
    images[2]["annotations"][1]["iscrowd"] = 1
    assert image_repeat_factors(images, np.array([1.5, 4.0])).tolist() == [1.5, 1.5, 1.5]


def test_a_threshold_of_zero_repeats_nothing_and_says_so(caplog):
    with caplog.at_level(logging.WARNING, logger="balanced_lvis"):
        sampler = build_sampler(config(REPEAT_THRESHOLD=0.0), records(), "RepeatFactorTrainingSampler")
    assert "REPEAT_THRESHOLD is 0" in caplog.text
    assert sorted(take(sampler, len(IMAGES))) == list(range(len(IMAGES)))


# ------------------------------------------------------------------ the table of names


def test_the_names_are_detectron2s_and_ours():
    assert sampler_names() == sorted((*RESUMABLE, *DETECTRON2_ONLY))
    for name in sampler_names():
        check_sampler(name)


@pytest.mark.parametrize("name", RESUMABLE)
def test_the_config_names_the_sampler(name):
    sampler = build_sampler(config(SAMPLER_TRAIN=name), records())
    assert isinstance(sampler, ResumableSampler)
    sampler.seed = 7
    assert take(sampler, 50) == take(built(name), 50)


@pytest.mark.parametrize("name", DETECTRON2_ONLY)
def test_what_only_detectron2_can_build_is_left_to_it_and_what_it_lacks_told(name, caplog):
    assert build_sampler(config(SAMPLER_TRAIN=name), records()) is None
    assert f"{name} can't be resumed" in caplog.text and "MAX_BROKEN" in caplog.text


@pytest.mark.parametrize("name", DETECTRON2_ONLY)
def test_a_sampler_whose_config_key_this_detectron2_lacks_is_refused_before_work(name):
    cfg = config(SAMPLER_TRAIN=name)
    node, key = (cfg.DATALOADER, "RANDOM_SUBSET_RATIO") if "Subset" in name else (cfg.DATASETS, "TRAIN_REPEAT_FACTOR")
    node[key] = 0.5
    check_sampler_keys(cfg)
    del node[key]
    with pytest.raises(InputError, match=f"{name}', which needs the config key .*{key}.*TrainingSampler"):
        check_sampler_keys(cfg)
    for other in RESUMABLE:
        check_sampler_keys(config(SAMPLER_TRAIN=other))


def test_class_names_come_from_the_data_set_where_it_has_them(caplog):
    name = "named_for_the_sampler"
    MetadataCatalog.get(name).thing_classes = ["a", "b", "c", "d", "e", "unseen_one", "unseen_two"]
    try:
        cfg = config()
        cfg.DATASETS.TRAIN = (name,)
        with caplog.at_level(logging.WARNING, logger="balanced_lvis"):
            build_sampler(cfg, records(), "ClassAwareTrainingSampler")
    finally:
        MetadataCatalog.remove(name)
    assert "2 class(es) are in no training image and can't be sampled: unseen_one, unseen_two." in caplog.text


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (
            lambda: check_sampler("RepeatFactorSampler"),
            "'RepeatFactorSampler'.*Did you mean 'RepeatFactorTrainingSampler'.*ClassAware.*WeightedTrainingSampler",
        ),
        (lambda: build_sampler(config(SAMPLER_TRAIN="x"), records()), "unknown sampler 'x'. Valid: ClassAware"),
        (lambda: build_sampler(config(), records(), "x"), "unknown sampler 'x'"),
        (lambda: build_sampler(config(), [], "TrainingSampler"), "no images"),
        (lambda: register_sampler("TrainingSampler")(None), "registered already"),
        (lambda: register_sampler("WeightedTrainingSampler")(None), "registered already"),
        (lambda: ClassAwareTrainingSampler(records([[], []]), K), "none of the 6 classes is in any of the 2 images"),
        (lambda: ClassAwareTrainingSampler(records([[0], [7]]), K), "Image 1 has category_id 7.*6 classes"),
        (lambda: ClassAwareTrainingSampler(records([[0, -1]]), K), "category_id -1"),
        (lambda: InstanceAwareRepeatFactorTrainingSampler(records([[7]]), "abc", 0.1), "category_id 7"),
        (lambda: InstanceAwareRepeatFactorTrainingSampler(records(), "abcdef", -1), "threshold is -1"),
        *(
            (lambda name=name: build_sampler(config(REPEAT_THRESHOLD=2.0), records(), name), "REPEAT_THRESHOLD is 2.0")
            for name in ("RepeatFactorTrainingSampler", "InstanceAwareRepeatFactorTrainingSampler")
        ),
        (lambda: class_repeat_factors(ClassPrior(("a",), [1], 2), 1.5), "threshold is 1.5"),
        (lambda: class_repeat_factors(ClassPrior(("a",), [1], 2), float("nan")), "threshold is nan"),
        (lambda: class_repeat_factors(ClassPrior(("a",), [1], 2), 0.1, power=-1), "power of repeat factors is -1"),
        (lambda: class_repeat_factors(ClassPrior(("a",), [1], 2), 0.1, power=float("inf")), "factors is inf; .*papers"),
        *(
            (lambda name=name: with_power(name, -0.5), f"DATALOADER.SAMPLER.{name.upper()}.POWER is -0.5; it must")
            for name in ("RepeatFactorTrainingSampler", "InstanceAwareRepeatFactorTrainingSampler")
        ),
        (
            lambda: class_repeat_factors(ClassPrior(("a",), [1], 2), 0.1, by="instance"),
            "'instance'; valid: 'image', 'image_and",
        ),
        (
            lambda: class_repeat_factors(ClassPrior(("a",), [1], 2), 0.1, by="image_and_instance"),
            "has image counts only",
        ),
        (lambda: built("TrainingSampler").load_state_dict({"seed": 1}), "must have integers 'seed' and 'start'"),
        (lambda: built("TrainingSampler").load_state_dict(None), "must have integers 'seed' and 'start'"),
        (lambda: built("TrainingSampler").load_state_dict({"seed": 1, "start": -4}), "start is -4"),
    ],
)
def test_bad_arguments_are_named(make_it, message):
    with pytest.raises(InputError, match=message):
        make_it()
