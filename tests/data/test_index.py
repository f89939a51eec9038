"""Index of LVIS annotations: records equal to those of Detectron2's loader, and a robust file."""

import functools
import io
import itertools
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import register_coco_instances, register_lvis_instances
from detectron2.data.datasets.lvis import load_lvis_json
from detectron2.engine import DefaultTrainer
from detectron2.structures import BoxMode
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from balanced_lvis.data.annotations import json_stream
from balanced_lvis.data.box_centres import box_centres
from balanced_lvis.data.dataset_records import load_records
from balanced_lvis.data.index import LVISRecords, open_index, opening
from balanced_lvis.data.index.coordinates import FLOATS, HUNDREDTHS, TEXT, decode, encode
from balanced_lvis.data.loader import build_train_loader
from balanced_lvis.data.registered_files import LVISSource, lvis_source
from balanced_lvis.data.samplers import build_sampler, class_repeat_factors
from balanced_lvis.data.training_prior import class_prior_of_dataset
from balanced_lvis.data.validation import Report, path_problem
from balanced_lvis.engine.trainer import Trainer
from balanced_lvis.priors import ClassPrior, HasClassLists
from balanced_lvis.utils.errors import InputError
from tests.common import SHARED_DATA

ROOT = "coco/"
K = 6


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv(opening.MODE, raising=False)


def image(image_id, **keys):
    url = f"http://images.cocodataset.org/train2017/{image_id:012d}.jpg"
    return {"id": image_id, "height": 480, "width": 640, "coco_url": url, **keys}


def annotation(annotation_id, image_id, category_id=1, segmentation=((1.5, 2.25, 3.0, 2.0, 3.0, 4.75),), **keys):
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [1.5, 2.0, 1.5, 2.75],
        "segmentation": list(map(list, segmentation)),
        **keys,
    }


def content(images, annotations):
    return {
        "categories": [{"id": i + 1, "name": f"c{i}"} for i in range(K)],
        "images": images,
        "annotations": annotations,
    }


SMALL = content(
    [image(7, neg_category_ids=[3, 1], not_exhaustive_category_ids=[2]), image(3), image(5)],
    [annotation(1, 5, 2), annotation(2, 3), annotation(3, 5, 6), annotation(4, 5, 2)],
)


def write(folder, what=SMALL):
    path = Path(folder, "annotations.json")
    path.write_text(what if isinstance(what, str) else json.dumps(what))
    return str(path)


def stock(path):
    return load_lvis_json(path, ROOT)


def ours(path, **options):
    return LVISRecords(open_index(path), ROOT, **options)


def exact(records):
    """Text that distinguishes 1 from 1.0, 0.0 from -0.0 and different orders of keys."""
    return [json.dumps(record) for record in records]


def same_size_other_content(path):
    """Changes a category, and keeps the number of bytes."""
    text = Path(path).read_text()
    other = text.replace('"category_id": 6', '"category_id": 5')
    assert other != text
    Path(path).write_text(other)


@pytest.fixture
def builds(monkeypatch):
    """The files whose index this process has built."""
    made = []
    build = opening.build_index
    monkeypatch.setattr(opening, "build_index", lambda *args: (made.append(args[0]), build(*args)))
    return made


@pytest.fixture
def register():
    """Registers datasets for one test."""
    names = []

    def add(function, name, *args):
        names.append(name)
        function(name, *args)
        return name

    yield add
    for name in names:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name, None)


def register_plainly(name, path):
    DatasetCatalog.register(name, functools.partial(load_lvis_json, path, ROOT))
    MetadataCatalog.get(name).set(thing_classes=[f"class {i}" for i in range(K)])


# ------------------------------------------------------------------ the records are Detectron2's


def test_real_annotations_give_equal_records(tmp_path):
    source = SHARED_DATA / "lvis_val_100.json"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    path = shutil.copy(source, tmp_path)
    expected = stock(path)
    for _ in range(2):  # built, then found
        records = ours(path)
        assert list(records) == expected
        assert exact(records) == exact(expected)
    assert os.path.getsize(f"{path}.index") < os.path.getsize(path) / 4


@pytest.mark.parametrize("filter_empty", [False, True])
@pytest.mark.parametrize("split", ["train", "val", "test_dev"])
def test_the_rendered_data_set_gives_equal_records(rendered, split, filter_empty):
    name = f"rendered_{split}"
    if split == "test_dev" and filter_empty:
        with pytest.raises(InputError, match="rendered_test_dev has no image with annotations"):
            load_records(name, filter_empty)
        return
    records = load_records(name, filter_empty)
    assert isinstance(records, LVISRecords)
    expected = get_detection_dataset_dicts(name, filter_empty)
    assert list(records) == expected
    assert exact(records) == exact(expected)


hundredths = st.integers(0, 70_000).map(lambda n: n / 100)
numbers = st.one_of(hundredths, st.floats(allow_nan=False), st.integers(-(2**53), 2**53), st.just(-0.0))
polygons = st.lists(hundredths, min_size=6, max_size=10) | st.lists(numbers, min_size=6, max_size=8)
categories = st.lists(st.integers(1, K), max_size=3)


@st.composite
def lvis_files(draw):
    ids = draw(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=6, unique=True))
    size = st.integers(1, 2000)
    images = []
    for image_id in ids:
        optional = draw(st.fixed_dictionaries({}, optional={
            "neg_category_ids": categories, "not_exhaustive_category_ids": categories, "license": st.text(max_size=3),
        }))  # fmt: skip
        folder, name = draw(st.text(max_size=5)), draw(st.text(max_size=5))
        url = f"http://{folder.replace('/', '')}/{name.replace('/', '')}"
        assume(not path_problem("/".join(url.split("/")[-2:])))
        images.append({"id": image_id, "height": draw(size), "width": draw(size), "coco_url": url, **optional})
    annotations = [
        annotation(
            i,
            draw(st.sampled_from([*ids, 2**41])),  # the last is of an unknown image, which Detectron2 ignores
            draw(st.integers(1, K)),
            [polygon[: len(polygon) // 2 * 2] for polygon in draw(st.lists(polygons, min_size=1, max_size=3))],
            bbox=draw(st.lists(numbers, min_size=4, max_size=4)),
            iscrowd=draw(st.integers(0, 1)),
        )
        for i in draw(st.permutations(range(draw(st.integers(0, 12)))))
    ]
    keys = draw(st.permutations(["categories", "images", "annotations", "info"]))
    whole = {**content(images, annotations), "info": {"images": [1, {"a": "}"}]}}
    return {key: whole[key] for key in keys}


@settings(deadline=None, max_examples=150)
@given(lvis_files(), st.sampled_from([None, 1]))
def test_any_file_gives_equal_records_priors_and_groups(what, indent):
    with tempfile.TemporaryDirectory() as folder:
        path = write(folder, json.dumps(what, indent=indent))
        expected, records = stock(path), ours(path)
        assert len(records) == len(expected)
        assert exact(records) == exact(expected)
        filled = [record for record in expected if record["annotations"]]
        assert exact(ours(path, filter_empty=True)) == exact(filled)
        names = [str(i) for i in range(K)]
        priors = [ClassPrior.from_dataset_dicts(images, names) for images in (records, expected)]
        for field in ("image_count", "instance_count", "num_images"):
            np.testing.assert_array_equal(*(getattr(prior, field) for prior in priors))
        np.testing.assert_array_equal(*map(box_centres, (records, expected)))
        groups = [0 if record["width"] > record["height"] else 1 for record in expected]
        assert records.aspect_ratio_groups().tolist() == groups


def test_records_are_made_anew_and_may_be_altered(tmp_path):
    records = ours(write(tmp_path))
    assert records[1]["annotations"][0]["bbox_mode"] is BoxMode.XYWH_ABS
    records[1]["annotations"].clear()
    records[2]["neg_category_ids"].append(1)
    assert list(records) == stock(write(tmp_path))


def test_a_file_without_annotations_has_images_without_any(tmp_path):
    with_none = {**SMALL, "annotations": []}
    expected = stock(write(tmp_path, with_none))
    del with_none["annotations"]
    path = write(tmp_path, with_none)
    assert exact(ours(path)) == exact(expected)
    assert len(ours(path, filter_empty=True)) == 0
    assert Report.from_dict(open_index(path).header["report"]).num_annotations is None


def test_without_an_index_a_file_without_annotations_is_explained(tmp_path, monkeypatch, register):
    name = register(register_plainly, "unannotated", write(tmp_path, {"images": [image(1)], "categories": []}))
    monkeypatch.setenv(opening.MODE, "off")
    with pytest.raises(InputError, match="of unannotated has no 'annotations'.* unset BALANCED_LVIS_INDEX"):
        load_records(name)


def test_an_index_knows_what_is_wrong_with_its_file(tmp_path):
    path = write(tmp_path, content([image(1)], [annotation(1, 1, 99), annotation(2, 2)]))
    report = Report.from_dict(open_index(path).header["report"])
    assert (report.num_images, report.num_annotations, report.num_categories) == (1, 2, K)
    assert (report.count("unknown_category_id"), report.count("unknown_image_id")) == (1, 1)


def test_it_is_indexed_as_a_list_is(tmp_path):
    path = write(tmp_path)
    records, expected = ours(path), stock(path)
    assert records[-1] == expected[-1]
    assert records[np.int64(0)] == expected[0]
    for index in (3, -4):
        with pytest.raises(IndexError):
            records[index]


def test_the_last_image_of_an_id_counts_as_in_detectron2(tmp_path):
    path = write(tmp_path, content([image(1), image(2), image(1, height=9)], [annotation(1, 1)]))
    assert list(ours(path)) == stock(path)


@settings(deadline=None)
@given(st.lists(numbers, max_size=12))
def test_numbers_come_back_with_value_and_type(values):
    whole = np.array([type(value) is int for value in values], bool)
    code, data = encode(np.array(values, np.float64), whole if whole.any() else None)
    assert repr(decode(code, data)) == repr(values)


def test_coordinates_with_two_decimals_take_two_bytes():
    every = np.arange(65536) / 100
    assert [float(f"{n // 100}.{n % 100:02d}") for n in range(65536)] == every.tolist()
    code, data = encode(every, None)
    assert (code, len(data)) == (HUNDREDTHS, 2 * 65536)
    for values in ([655.36], [-0.01], [0.005], [-0.0], [float("nan")], [float("inf")]):
        assert encode(np.array(values), None)[0] == FLOATS
    assert encode(np.array([1.0]), np.array([True])) == (TEXT, b"[1]")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.lists(json_values), st.dictionaries(st.text(min_size=3), json_values), st.sampled_from([None, 2]))
def test_lists_are_streamed_wherever_the_pieces_end(elements, others, indent):
    text = json.dumps({**others, "of": elements, "a": 12}, indent=indent, ensure_ascii=False)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = json.dumps(json.loads(text)).encode()
    with tempfile.TemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", 3)
        file.write(data)
        file.seek(0)
        assert [element for _, element in json_stream.stream_lists(file, ("of",))] == elements


small_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from(["a", "}, {", "}]"]), small_values, max_size=3), max_size=12),
    st.lists(small_values, max_size=3),
    st.sampled_from([None, 2]),
    st.sampled_from([3, 50, 200, 1 << 20]),
)
def test_objects_are_decoded_many_at_a_time_wherever_the_pieces_end(objects, others, indent, chunk):
    text = json.dumps({"before": objects, "of": objects, "after": others}, indent=indent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        parts = json_stream.stream_parts(io.BytesIO(text.encode()), ("of",), {"of": json_stream.decode_any})
        # As text, because 1 == 1.0.
        assert json.dumps([element for _, part in parts for element in part]) == json.dumps(objects)
        elements = json_stream.stream_list(io.BytesIO(json.dumps(objects, indent=indent).encode()))
        assert json.dumps(list(elements)) == json.dumps(objects)


@pytest.mark.parametrize("separator", ["} ,{", "}\n, {", "},{"])
def test_white_space_between_objects_does_not_matter(separator):
    calls, objects = [], [{"a": i} for i in range(1000)]
    text = json.dumps({"of": objects}).replace("}, {", separator)

    def decode(part):
        calls.append(part)
        return json_stream.decode_any(part)

    parts = json_stream.stream_parts(io.BytesIO(text.encode()), ("of",), {"of": decode})
    assert [element for _, part in parts for element in part] == objects
    assert len(calls) <= 2


@pytest.mark.parametrize("elements", [list(range(1000)), 1000 * [[{}, 1]], 1000 * [{"a": {}}, 1]])
def test_text_without_neighbouring_objects_is_searched_once_per_chunk(elements, monkeypatch):
    searches = []
    ends = json_stream._Text._ends_of_objects
    monkeypatch.setattr(json_stream._Text, "_ends_of_objects", lambda text: searches.append(1) or ends(text))
    text = json.dumps({"skipped": elements, "of": [], "also": elements})
    found = json_stream.stream_lists(io.BytesIO(text.encode()), ("of", "also"))
    assert [element for _, element in found] == elements
    assert len(searches) <= 3  # the chunk, and the end of the file


@pytest.mark.parametrize("last", ['{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"a": 100000000000000000000000}'])
def test_what_the_fast_decoder_refuses_is_read_as_by_json(last, tmp_path):
    text = f'[{{"a": 1}}, {last}, {{"a": [{{}}, {{}}]}}]'
    path = tmp_path / "x.json"
    path.write_text(text)
    assert repr(list(json_stream.stream_list(io.BytesIO(text.encode())))) == repr(json.loads(text))
    assert repr(json_stream.load_json(path)) == repr(json.loads(text))


# ------------------------------------------------------------------ what they are used for


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


# ------------------------------------------------------------------ the file on disk


def test_the_index_is_made_once(tmp_path, builds):
    path = write(tmp_path)
    for _ in range(3):
        assert list(ours(path)) == stock(path)
    assert builds == [path]
    assert sorted(os.listdir(tmp_path)) == ["annotations.json", "annotations.json.index", "annotations.json.index.lock"]


def test_a_changed_file_is_indexed_anew(tmp_path, builds):
    path = write(tmp_path)
    ours(path)
    same_size_other_content(path)
    assert list(ours(path)) == stock(path)
    write(tmp_path, content([image(1)], []))
    assert list(ours(path)) == stock(path)
    assert len(builds) == 3


def test_a_file_that_was_only_touched_keeps_its_index(tmp_path, builds, monkeypatch):
    path = write(tmp_path)
    ours(path)
    os.utime(path, ns=(0, 10**18))
    assert list(ours(path)) == stock(path)
    monkeypatch.setattr(opening, "sha256_of", None)  # the new time is recorded: the file isn't read again
    assert list(ours(path)) == stock(path)
    assert len(builds) == 1


def test_a_change_behind_size_and_time_is_found_where_that_is_asked_for(tmp_path, builds, monkeypatch):
    path = write(tmp_path)
    before, status = list(ours(path)), os.stat(path)
    same_size_other_content(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert list(ours(path)) == before, "so it is documented"
    monkeypatch.setenv(opening.MODE, "verify")
    assert list(ours(path)) == stock(path) != before
    ours(path)
    assert len(builds) == 2


def test_no_index_is_made_where_it_is_switched_off(tmp_path, builds, monkeypatch, register):
    monkeypatch.setenv(opening.MODE, "off")
    name = register(register_plainly, "plain", write(tmp_path))
    assert isinstance(load_records(name), list)
    assert os.listdir(tmp_path) == ["annotations.json"]


@pytest.mark.parametrize("size", [0, 1, 23, 24, 100, 1000, -1])
def test_an_index_that_was_cut_off_is_made_anew(tmp_path, builds, caplog, size):
    path = write(tmp_path)
    ours(path)
    data = Path(f"{path}.index").read_bytes()
    Path(f"{path}.index").write_bytes(data[:size])
    with caplog.at_level(logging.WARNING, logger="balanced_lvis"):
        assert list(ours(path)) == stock(path)
    assert "The index is rebuilt" in caplog.text
    assert Path(f"{path}.index").read_bytes() == data


@pytest.mark.parametrize("removed", [1, 8, 64, 4096])
def test_an_index_that_lost_bytes_in_its_midst_is_made_anew(tmp_path, builds, removed):
    path = write(tmp_path)
    ours(path)
    index = Path(f"{path}.index")
    data = index.read_bytes()
    for place in range(0, len(data) - 1500, 500):
        index.write_bytes(data[:place] + data[place + removed :])
        assert list(ours(path)) == stock(path)
        assert index.read_bytes() == data


def test_no_altered_byte_gives_another_record(tmp_path):
    path = write(tmp_path)
    expected, index = list(ours(path)), Path(f"{path}.index")
    data = index.read_bytes()
    refused = 0
    for place in range(0, len(data), 5):
        index.write_bytes(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
        try:
            assert list(ours(path)) == expected
        except InputError as error:
            assert "annotations.json.index is damaged at image" in str(error)
            refused += 1
        index.unlink(missing_ok=True)
    assert refused


def run_together(functions):
    processes = [multiprocessing.get_context("fork").Process(target=function) for function in functions]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_processes_that_start_together_make_one_index(tmp_path, monkeypatch):
    path = write(tmp_path)
    expected, build = stock(path), opening.build_index

    def slow_build(*args):
        with open(tmp_path / "builds", "a") as file:
            file.write("x")
        time.sleep(0.3)
        build(*args)

    def start():
        assert list(ours(path)) == expected

    monkeypatch.setattr(opening, "build_index", slow_build)
    assert run_together([start] * 4) == [0] * 4
    assert (tmp_path / "builds").read_text() == "x"


def test_a_killed_build_leaves_no_index_and_no_lock(tmp_path, monkeypatch):
    path = write(tmp_path)

    def die(json_file, output):
        output.write(b"half")
        output.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(opening, "build_index", die)
        assert run_together([lambda: ours(path)]) == [-signal.SIGKILL]
    assert not os.path.exists(f"{path}.index")
    assert list(ours(path)) == stock(path)
    assert not os.path.exists(f"{path}.index.partial")


def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    path = write(tmp_path)
    ours(path)
    before = Path(f"{path}.index").read_bytes()
    write(tmp_path, content([image(1)], []))

    def interrupted(json_file, output):
        output.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(opening, "build_index", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ours(path)
    assert Path(f"{path}.index").read_bytes() == before
    assert not os.path.exists(f"{path}.index.partial")


def in_a_folder_without_room(tmp_path):
    """A folder in which no longer name is possible, so that not even root can write an index."""
    path = tmp_path / f"{'a' * 246}.json"
    path.write_text(json.dumps(SMALL))
    return str(path)


def test_where_the_folder_cant_be_written_to_the_index_is_in_the_cache(tmp_path, builds, monkeypatch):
    path = in_a_folder_without_room(tmp_path)
    for _ in range(2):
        assert list(ours(path)) == stock(path)
    assert builds == [path]
    assert len(os.listdir(tmp_path)) == 1
    cached = list(Path(os.environ["XDG_CACHE_HOME"], "balanced_lvis").glob("*.index"))
    assert len(cached) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder_stays_as_it_is(tmp_path):
    path = write(tmp_path)
    tmp_path.chmod(0o555)
    try:
        assert list(ours(path)) == stock(path)
        assert os.listdir(tmp_path) == ["annotations.json"]
    finally:
        tmp_path.chmod(0o755)


def test_where_nothing_can_be_written_a_warning_says_so_and_detectron2_loads(tmp_path, monkeypatch, caplog, register):
    path = in_a_folder_without_room(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    name = register(register_plainly, "unwritable", path)
    with caplog.at_level(logging.WARNING, logger="balanced_lvis"):
        assert load_records(name) == get_detection_dataset_dicts(name)
    assert "is loaded without an index" in caplog.text
    assert "File name too long" in caplog.text and "Not a directory" in caplog.text


@pytest.mark.parametrize(
    "unusual",
    [
        content([{**image(1), "id": "one"}], [annotation(1, "one")]),
        content([image(1, height=480.0)], [annotation(1, 1)]),
        content([image(1)], [annotation(1, 1, bbox=[1.0, 2.0, 3.0])]),
        content([image(1)], [annotation(1, 1, segmentation=[[1.0, 2.0, 3.0, 4.0, 5.0, 2**53 + 1]])]),
        content([image(1)], [annotation(1, 1, segmentation=[[True] * 6])]),
        content([image(1, neg_category_ids="none")], [annotation(1, 1)]),
        content([image(2**70)], [annotation(1, 2**70)]),
    ],
)
def test_what_the_index_cant_hold_is_loaded_by_detectron2(tmp_path, caplog, register, unusual):
    name = register(register_plainly, "unusual", write(tmp_path, unusual))
    with caplog.at_level(logging.WARNING, logger="balanced_lvis"):
        records = load_records(name)
    assert exact(records) == exact(get_detection_dataset_dicts(name))
    assert "it can't be indexed" in caplog.text
    assert not list(tmp_path.glob("*.index"))


# ------------------------------------------------------------------ bad files

WHOLE = json.dumps(SMALL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("[]", "it is a list"),
        ("{]", r"Expecting '\"' \(char 1\)"),
        ("{}", "no 'images' and no 'categories'"),
        ('{"images": []}', "no 'categories'"),
        (WHOLE[:-1], "Expecting ',' or '}'"),
        (WHOLE[: len(WHOLE) // 2], r"\(char \d+\)"),
        (WHOLE + "x", rf"Extra data \(char {len(WHOLE)}\)"),
        (WHOLE.replace('"annotations": [', '"annotations": 3, "more": ['), "its 'annotations' is not a list"),
        (WHOLE[:-1] + ', "images": []}', "it has 'images' twice"),
        (WHOLE.replace('"images": [', '"images": [,'), "Expecting value"),
        (WHOLE.replace('"images": [', '"images": [3, '), "in its images, number 1 is 3"),
        (WHOLE.replace("coco_url", "url"), "image 7 has no 'coco_url'"),
        (WHOLE.replace("http://images.cocodataset.org/train2017/", ""), "has no folder"),
        (WHOLE.replace('"segmentation"', '"mask"'), "annotation 1 of image 5 has no polygon"),
        (WHOLE.replace('"id": 2, "image_id"', '"id": 1, "image_id"'), "several annotations have the id 1"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, text, message):
    path = write(tmp_path, text)
    if "twice" not in message:  # json.load takes the last one
        with pytest.raises(Exception):  # noqa: B017
            stock(path)
    with pytest.raises(InputError, match=message) as caught:
        ours(path)
    assert path in str(caught.value)
    assert not list(tmp_path.glob("*.index")) and not list(tmp_path.glob("*.partial"))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = write(tmp_path)
    Path(path).write_bytes(WHOLE.encode().replace(b"train2017", b"train\xff017"))
    with pytest.raises(InputError, match=r"annotations\.json are not in LVIS format: it is not UTF-8; save"):
        ours(path)


@pytest.mark.parametrize(
    ("folder", "what"), [("..", r"goes up with '\.\.'"), ("C:", "is absolute"), ("~", "is absolute")]
)
def test_no_image_is_read_outside_the_folder_of_images(tmp_path, folder, what):
    path = write(tmp_path, WHOLE.replace("/train2017/", f"/{folder}/"))
    with pytest.raises(InputError, match=f"annotations.json .*7.jpg' of image 7 {what}"):
        ours(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json can't be read: No such file"):
        open_index(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="can't be read: Is a directory"):
        open_index(tmp_path)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1.0, 2.0, 3.0, 4.0]], "has an invalid polygon of 4 numbers"),
        ([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0] * 7], "has an invalid polygon of 7 numbers"),
        ([], "has no polygon"),
        ({"size": [480, 640], "counts": "abc"}, "has an RLE mask, .*counts"),
    ],
)
def test_a_polygon_that_detectron2_refuses_is_named(tmp_path, segmentation, message):
    bad = {**annotation(5, 3), "segmentation": segmentation}
    path = write(tmp_path, content([image(3)], [annotation(4, 3), bad]))
    with pytest.raises(AssertionError):
        stock(path)
    with pytest.raises(InputError, match=f"annotations.json: annotation 5 of image 3 {message}"):
        ours(path)
    write(tmp_path, content([image(3)], [annotation(4, 3), {**bad, "image_id": 99}]))
    assert list(ours(path)) == stock(path), "of an unknown image, which neither looks up"
