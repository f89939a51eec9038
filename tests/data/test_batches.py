"""Batches and their random numbers are functions of a seed and a position, in every process."""

import itertools
import json
import random

import numpy as np
import pytest
import torch
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import TrainingSampler
from hypothesis import given, settings
from hypothesis import strategies as st

from balanced_lvis.data.batches import BatchStream, MappedImages, Place, aspect_ratio_groups
from balanced_lvis.data.loader import build_train_loader
from balanced_lvis.data.samplers import Detectron2Sampler
from balanced_lvis.utils.random_state import seed_of, seeded

GROUPS = np.array([0, 1, 0, 0, 1, 0, 0])


def stream(groups=GROUPS, batch_size=2, rank=0, world_size=1, seed=3):
    sampler = Detectron2Sampler(lambda seed: TrainingSampler(len(GROUPS), seed=seed), seed)
    sampler.rank, sampler.world_size = rank, world_size
    return BatchStream(sampler, batch_size, groups)


def take(iterable, count):
    return list(itertools.islice(iterable, count))


def test_images_are_grouped_as_by_detectron2():
    sizes = [(5, 4) if group == 0 else (4, 5) for group in GROUPS]
    indices = iter(stream().sampler)
    records = ({"width": sizes[i][0], "height": sizes[i][1], "index": i} for i in indices)
    theirs = [[record["index"] for record in batch] for batch in take(AspectRatioGroupedDataset(records, 2), 40)]
    assert [[place.index for place in batch] for batch in take(stream(), 40)] == theirs


@settings(deadline=None)
@given(
    st.booleans(), st.integers(1, 4), st.integers(1, 3), st.lists(st.integers(0, 9), min_size=1, max_size=4),
    st.integers(0, 99),
)  # fmt: skip
def test_a_stream_goes_on_where_it_stopped_as_often_as_it_stops(grouped, batch_size, world_size, stops, seed):
    """The state is the same in every process."""
    made = [stream(GROUPS if grouped else None, batch_size, rank, world_size, seed) for rank in range(world_size)]
    expected = [take(one, sum(stops) + 5) for one in made]
    parts = [[] for _ in made]
    for stop in stops:
        for one, part in zip(made, parts):
            part += take(one, stop)
        states = [json.loads(json.dumps(one.state_dict(stop))) for one in made]
        assert all(state == states[0] for state in states)
        made = [stream(GROUPS if grouped else None, batch_size, rank, world_size, 0) for rank in range(world_size)]
        for one in made:
            one.load_state_dict(states[0])
    assert [part + take(one, 5) for part, one in zip(parts, made)] == expected


def test_with_another_number_of_processes_no_position_comes_twice():
    before = [stream(rank=rank, world_size=2) for rank in range(2)]
    seen = {place.position for one in before for batch in take(one, 10) for place in batch}
    after = stream(batch_size=4)
    after.load_state_dict(before[0].state_dict(10))
    positions = {place.position for batch in take(after, 10) for place in batch}
    assert min(positions) == 2 * 2 * 10
    assert len(seen & positions) <= 2 * 2 * 2, "but for the images that waited for others of their shape"


def test_a_state_without_groups_is_a_position_for_any_number_of_processes():
    before = stream(None, batch_size=3, world_size=2)
    assert before.state_dict(5) == {"seed": 3, "start": 30}
    grouped = stream(world_size=4)
    grouped.load_state_dict(before.state_dict(5))
    assert grouped.state_dict(0)["start"] == 30


class Draw:
    """A mapper that uses all generators, and fails for every third image."""

    def __call__(self, record):
        drawn = torch.rand(()).item(), np.random.rand(), random.random()
        return None if record["index"] % 3 == 2 else {**record, "drawn": drawn}


def test_a_sample_depends_on_its_place_alone():
    images = MappedImages([{"index": i} for i in range(9)], Draw())
    first = images[Place(1, 10, 4)]
    torch.manual_seed(99)
    np.random.seed(99)
    assert images[Place(1, 10, 4)] == first
    others = [images[place]["drawn"] for place in (Place(1, 11, 4), Place(2, 10, 4))]
    assert len({first["drawn"], *others}) == 3


def test_another_image_comes_in_place_of_one_that_can_not_be_mapped():
    images = MappedImages([{"index": i} for i in range(9)], Draw())
    found = [images[Place(1, position, 5)]["index"] for position in range(20)]
    assert found == [images[Place(1, position, 5)]["index"] for position in range(20)]
    assert len(set(found)) > 3
    assert all(index % 3 != 2 for index in found)


def test_reading_samples_leaves_the_generators_outside_as_they_are():
    images = MappedImages([{"index": 0}], Draw())
    states = [(torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) for _ in map(seed, (0, 0))]
    seed(0)
    images[Place(1, 2, 0)]
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == states[0] == states[1]


def seed(value):
    torch.manual_seed(value)
    np.random.seed(value)
    random.seed(value)


def test_seeds_of_neighbouring_keys_are_different():
    keys = itertools.product(range(3), range(4), range(50))
    assert len({seed_of(*key) for key in keys}) == 600
    with seeded(2**40, 5):
        first = np.random.rand()
    with seeded(2**40, 5):
        assert np.random.rand() == first


def test_groups_come_from_an_index_or_from_the_records(rendered, tiny_cfg):
    records = [{"width": 5, "height": 4}, {"width": 4, "height": 4}, {"width": 3, "height": 4}]
    assert aspect_ratio_groups(records).tolist() == [0, 1, 1]
    assert set(aspect_ratio_groups(build_train_loader(tiny_cfg).batches.dataset.dataset)) == {1}


@pytest.mark.parametrize("grouping", [False, True])
def test_workers_do_not_change_what_is_trained_on(rendered, tiny_cfg, grouping):
    tiny_cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    found = []
    for workers in (0, 3):
        tiny_cfg.DATALOADER.NUM_WORKERS = workers
        np.random.seed(4)
        loader = build_train_loader(tiny_cfg)
        found.append(take(loader, 7))
        resumed = build_train_loader(tiny_cfg)
        resumed.load_state_dict(loader.state_dict(3))
        assert_equal_batches(take(resumed, 4), found[-1][3:])
    assert_equal_batches(*found)


def assert_equal_batches(one, other):
    assert len(one) == len(other)
    for a, b in zip(itertools.chain(*one), itertools.chain(*other)):
        assert a["image_id"] == b["image_id"]
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
