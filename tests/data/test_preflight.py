"""Invalid annotations and missing images are found before training starts, or left out on request."""

import functools
import json
import logging
import pickle
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.data.datasets.lvis import load_lvis_json
from hypothesis import given, settings
from hypothesis import strategies as st

from balanced_lvis.commands.train import argument_parser
from balanced_lvis.data import check_results
from balanced_lvis.data import training_set as module
from balanced_lvis.data.annotations.counting import count_classes
from balanced_lvis.data.custom.registration import prepare_custom
from balanced_lvis.data.dataset_records import load_records
from balanced_lvis.data.index import LVISRecords, opening
from balanced_lvis.data.loader import build_train_loader
from balanced_lvis.data.preflight import preflight
from balanced_lvis.data.training_set import leave_out_missing
from balanced_lvis.data.validation import KINDS
from balanced_lvis.engine.run import check, read_config
from balanced_lvis.evaluation.lvis_api import LVIS, evaluate_on_lvis
from balanced_lvis.priors import ClassLists
from balanced_lvis.utils.errors import InputError
from tests.common import CONFIGS, rendered_opts
from tests.data.custom import made as custom
from tests.data.validation.made import federated, good
from tests.data.validation.test_validation import json_values

NAMES = ("preflight_one", "preflight_two")


@pytest.fixture(autouse=True)
def _clean():
    yield
    for name in NAMES:
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog.list():
                catalog.remove(name)


def register(folder, content=None, name=NAMES[0], there=(3, 5, 7)):
    """A dataset of three images; those with ids in ``there`` are on disk."""
    (folder / "train2017").mkdir(parents=True)
    for image_id in there:
        (folder / "train2017" / f"{image_id}.jpg").touch()
    path = folder / "annotations.json"
    path.write_text(json.dumps(content or made()))
    DatasetCatalog.register(name, functools.partial(load_lvis_json, str(path), f"{folder}/"))
    MetadataCatalog.get(name).set(thing_classes=["cat", "dog"], evaluator_type="lvis", json_file=str(path))
    return name


def made():
    content = good()
    for record in (*content["annotations"], *content["categories"]):
        key = "category_id" if "category_id" in record else "id"
        record[key] = min(record[key], 2)
    for category in content["categories"]:
        category["frequency"] = "r"
    return federated(content)


def image_ids(records):
    return [record["image_id"] for record in records]


# ------------------------------------------------------------------ annotations


def test_a_sound_data_set_passes(tmp_path):
    name = register(tmp_path)
    preflight([name], [name])


def test_annotations_are_parsed_once_for_all_starts(tmp_path, monkeypatch, caplog):
    content = made()
    content["annotations"][0]["bbox"] = [15, 1, 9, 5]
    name = register(tmp_path, content)
    preflight([name])
    monkeypatch.setattr(opening, "build_index", None)
    monkeypatch.setattr(check_results, "check_records", None)
    with caplog.at_level(logging.WARNING, logger="balanced_lvis"):
        preflight([name])
    assert f"{name}: 1 boxes that exceed their image by more than a pixel: annotation 1 of image 3" in caplog.text


@pytest.mark.parametrize("mode", ["", "off"])
def test_faulty_annotations_are_refused_with_all_that_is_wrong(tmp_path, monkeypatch, mode):
    monkeypatch.setenv(opening.MODE, mode)
    content = made()
    content["annotations"][0]["category_id"] = 9
    content["annotations"][1]["bbox"][3] = -1
    name = register(tmp_path, content)
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            preflight([name])
        assert "1 annotations of categories that are not in 'categories': 9 of annotation 1" in str(caught.value)
        assert "1 boxes of negative width or height" in str(caught.value)


def test_what_stops_the_index_is_told_with_all_else_that_is_wrong(tmp_path):
    content = made()
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
    del content["annotations"][1]["bbox"]
    content["annotations"][2]["segmentation"] = [[1, 2, 3, 4, 5, 6, 7]]
    name = register(tmp_path, content)
    with pytest.raises(InputError, match="annotation 2 of image 3: has no 'bbox'") as caught:
        preflight([name])
    for expected in ("1 polygons of fewer than 3 points", "1 polygons with an odd number", "has no 'bbox'"):
        assert expected in str(caught.value)


def test_only_evaluation_needs_areas(tmp_path):
    content = made()
    del content["annotations"][0]["area"]
    name = register(tmp_path, content)
    preflight([name])
    with pytest.raises(InputError, match="without 'area'"):
        preflight([], [name])


@pytest.mark.parametrize("field", ["neg_category_ids", "not_exhaustive_category_ids"])
def test_only_evaluation_needs_to_know_which_categories_are_absent(tmp_path, field):
    content = made()
    for image, change in zip(
        content["images"], (lambda image: image.pop(field), lambda image: image.update({field: None}))
    ):
        change(image)
    name = register(tmp_path, content)
    preflight([name])
    with pytest.raises(InputError, match=f"2 images in LVIS format without .*{field}"):
        preflight([], [name])


def test_an_index_of_another_version_is_no_obstacle(tmp_path, monkeypatch):
    name = register(tmp_path)
    preflight([name])
    monkeypatch.setattr(check_results.Report, "from_dict", lambda content: {}["kind"])
    preflight([name])


def test_a_file_without_annotations_can_be_evaluated_on_and_not_trained_on(tmp_path):
    content = made()
    del content["annotations"]
    name = register(tmp_path, content)
    preflight([], [name])
    with pytest.raises(InputError, match="preflight_one has no image with annotations"):
        preflight([name])


@pytest.mark.parametrize("mode", ["", "off"])
def test_crowds_are_refused_where_loader_and_evaluation_take_them_for_objects(tmp_path, monkeypatch, mode):
    monkeypatch.setenv(opening.MODE, mode)
    content = made()
    content["annotations"][0]["iscrowd"] = 1
    with pytest.raises(InputError, match=r"1 annotations with 'iscrowd' 1 .*: annotation 1 of image 3\. Name the file"):
        preflight([register(tmp_path, content)])


def test_ignored_objects_are_neither_trained_on_nor_counted_nor_to_be_found(tmp_path, monkeypatch):
    content = made()
    content["annotations"][0]["ignore"] = 1
    for image in content["images"]:
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    for category in content["categories"]:
        category["frequency"] = "r"
    name = register(tmp_path, content)
    preflight([name], [name])
    records = load_records(name, filter_empty=False)
    assert [len(record["annotations"]) for record in records] == [1, 0, 1]
    assert records.class_lists().classes.tolist() == [1, 0]
    assert count_classes(tmp_path / "annotations.json").instance_count.tolist() == [1, 1]
    truth = LVIS(str(tmp_path / "annotations.json"))
    found = [
        {**{key: a[key] for key in ("image_id", "category_id", "bbox")}, "score": 1.0} for a in truth.anns.values()
    ]
    for results in (found, found[1:]):
        assert evaluate_on_lvis(truth, results, "bbox")[0]["AP"] == pytest.approx(100)
    monkeypatch.setenv(opening.MODE, "off")  # Detectron2's loader would train on it
    with pytest.raises(InputError, match="1 annotations of preflight_one have 'ignore' 1"):
        preflight([name])


@pytest.mark.parametrize("ignored", ["0", "no", 2, 1.0])
def test_a_flag_that_is_neither_set_nor_unset_is_refused_by_every_part(tmp_path, ignored):
    content = made()
    content["annotations"][1]["ignore"] = ignored
    name = register(tmp_path, content)
    path = tmp_path / "annotations.json"
    for part in (lambda: preflight([name]), lambda: count_classes(path), lambda: LVIS(str(path))):
        with pytest.raises(InputError, match=f"annotation 2.*: ignore is {ignored!r}"):
            part()


@pytest.mark.parametrize("rles", [False, True], ids=["polygons", "RLE"])
def test_warnings_of_custom_datasets_are_the_same_for_polygons_and_rle_and_name_the_users_ids(tmp_path, caplog, rles):
    content = custom.content()
    for annotation in content["annotations"]:
        annotation["id"] += 1000
        if rles:
            annotation["segmentation"] = custom.rle(*annotation["bbox"][:2])
    content["annotations"][0]["bbox"] = [100, 8, 16, 16]
    content["annotations"][1]["bbox"] = [8, 8, 16, 16]
    content["categories"][1]["name"] = content["categories"][0]["name"]
    content["images"].append({**content["images"][2], "id": 77})
    custom.write(tmp_path, "train", content)
    cfg = custom.config(tmp_path, test="")
    prepare_custom(cfg)
    for _ in range(2):  # converted, then found
        with caplog.at_level(logging.WARNING, logger="balanced_lvis"):
            preflight(cfg.DATASETS.TRAIN)
        for words in (
            "1 boxes completely outside their image: annotation 1000 of image 10",
            f"1 {KINDS['box_differs'].title}: annotation 1005 of image 10",
            "1 repeated category names: 'cup' (2 times)",
            "1 images that have the same file as another image: '3.jpg' (2 times)",
        ):
            assert f"my_train: {words}" in caplog.text
        caplog.clear()


# ------------------------------------------------------------------ images


def test_a_path_in_another_spelling_is_explained(tmp_path):
    content = made()
    content["images"][1]["coco_url"] = "http://x.org/train2017/a%20b.jpg"
    name = register(tmp_path, content)
    with pytest.raises(InputError, match=r"a%20b\.jpg\. .*/a b\.jpg doesn't exist either: correct the paths"):
        preflight([name])
    (tmp_path / "train2017" / "a b.jpg").touch()
    with pytest.raises(InputError, match=r"a b\.jpg exists: correct the paths, or name the file under DATASETS.CUSTOM"):
        preflight([name])


def test_images_that_are_renamed_after_the_conversion_are_found_by_the_remedy(tmp_path):
    content = custom.content()
    custom.write(tmp_path, "train", content)
    (tmp_path / "images" / "1.jpg").rename(tmp_path / "images" / "a b.jpg")
    content["images"][0]["file_name"] = "a%20b.jpg"
    (tmp_path / "train.json").write_text(json.dumps(content))
    cfg = custom.config(tmp_path, test="")
    prepare_custom(cfg)
    preflight(cfg.DATASETS.TRAIN)
    (tmp_path / "images" / "a b.jpg").rename(tmp_path / "images" / "a%20b.jpg")
    with pytest.raises(
        InputError, match=r"a b\.jpg\. If images were renamed after .* was written, delete it"
    ) as caught:
        preflight(cfg.DATASETS.TRAIN)
    (converted,) = tmp_path.glob("train.json.lvis-*.json")
    assert str(converted) in str(caught.value)
    converted.unlink()
    prepare_custom(cfg)
    preflight(cfg.DATASETS.TRAIN)


def test_missing_images_are_counted_and_named(tmp_path):
    name = register(tmp_path, there=[7])
    with pytest.raises(InputError) as caught:
        preflight([name])
    message = str(caught.value)
    assert f"1 of 2 images of {name} are not on disk: {tmp_path}/train2017/3.jpg. " in message
    assert "--allow-missing" in message


def test_images_without_annotations_may_be_missing_where_they_are_not_trained_on(tmp_path):
    name = register(tmp_path, there=[3, 7])
    preflight([name])
    with pytest.raises(InputError, match="1 of 3 images"):
        preflight([name], filter_empty=False)


def test_missing_images_can_be_allowed_in_training_but_not_in_evaluation(tmp_path):
    name = register(tmp_path, there=[7])
    preflight([name], allow_missing=True)
    with pytest.raises(InputError, match=r"2 of 3 images.*DATASETS.TEST '\(\)' to train without evaluation"):
        preflight([name], [name], allow_missing=True)


def test_a_wrong_folder_is_not_allowed_either(tmp_path):
    name = register(tmp_path, there=[])
    with pytest.raises(InputError, match="2 of 2 images.*Check the path of the image folder"):
        preflight([name], allow_missing=True)
    with pytest.raises(InputError, match="None of the 2 training images"):
        leave_out_missing(load_records(name))


def test_other_loaders_images_are_looked_for_too(tmp_path):
    (tmp_path / "7.jpg").touch()
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(made()))
    DatasetCatalog.register(NAMES[0], functools.partial(load_coco_json, str(path), str(tmp_path)))
    with pytest.raises(InputError, match="1 of 2 images of preflight_one"):
        preflight([NAMES[0]])
    assert image_ids(leave_out_missing(load_records(NAMES[0]))) == [7]


def test_remote_images_are_taken_for_granted():
    records = [{"file_name": "s3://bucket/1.jpg"}]
    assert leave_out_missing(records) == records


@pytest.mark.parametrize("mode", ["", "off"])
def test_missing_images_are_left_out(tmp_path, caplog, monkeypatch, mode):
    monkeypatch.setenv(opening.MODE, mode)
    name = register(tmp_path, there=[7])
    with caplog.at_level(logging.WARNING, logger="balanced_lvis"):
        records = leave_out_missing(load_records(name))
    assert image_ids(records) == [7]
    assert "1 of 2 training images are not on disk and are left out" in caplog.text
    assert isinstance(records, list if mode else LVISRecords)


def test_what_every_process_lacks_is_left_out_by_all(tmp_path, monkeypatch):
    name = register(tmp_path, there=[3, 7])
    records = load_records(name, filter_empty=False)
    assert image_ids(records) == [3, 5, 7]
    monkeypatch.setattr(module.comm, "all_gather", lambda mine: [mine, [2]])
    assert image_ids(leave_out_missing(records)) == [3]


def test_records_without_some_images_are_those_of_the_others(tmp_path):
    names = [register(tmp_path / "one"), register(tmp_path / "two", name=NAMES[1])]
    for filter_empty in (False, True):
        for records in (load_records(names[0], filter_empty), load_records(names, filter_empty)):
            every = list(records)
            assert records.file_names() == [record["file_name"] for record in every]
            for gone in ([], [0], [len(every) - 1], [0, len(every) - 1], [len(every) // 2]):
                kept = [record for i, record in enumerate(every) if i not in gone]
                some = records.leaving_out(gone)
                assert list(some) == kept
                assert list(pickle.loads(pickle.dumps(some))) == kept
                lists, expected = some.class_lists(), ClassLists.of(kept)
                for field in ("classes", "first", "image_ids"):
                    np.testing.assert_array_equal(getattr(lists, field), getattr(expected, field))
                groups = [int(record["width"] <= record["height"]) for record in kept]
                assert some.aspect_ratio_groups().tolist() == groups
                if kept:
                    rest = some.leaving_out([0])
                    assert list(rest) == kept[1:]


# ------------------------------------------------------------------ a run


@pytest.fixture
def incomplete(rendered, tmp_path):
    """A command line to train on a copy of the rendered dataset with a missing image; the path of that image."""
    root = tmp_path / "rendered"
    shutil.copytree(rendered, root)
    with open(root / "annotations" / "rendered_train.json") as file:
        content = json.load(file)
    image_id = content["annotations"][0]["image_id"]
    url = next(image["coco_url"] for image in content["images"] if image["id"] == image_id)
    path = root / "/".join(url.split("/")[-2:])
    path.unlink()
    config = CONFIGS / "quick_start" / "balanced_sigmoid.yaml"
    json_file = root / "annotations" / "rendered_train.json"
    DatasetCatalog.register(NAMES[0], functools.partial(load_lvis_json, str(json_file), f"{root}/"))
    classes = MetadataCatalog.get("rendered_train").thing_classes
    MetadataCatalog.get(NAMES[0]).set(thing_classes=classes, json_file=str(json_file))
    names = ["DATASETS.TRAIN", f"('{NAMES[0]}',)", "DATASETS.TEST", "()"]
    return ["--config-file", str(config), *rendered_opts(root, tmp_path / "out"), *names], path


def test_a_training_does_not_start_without_an_image(incomplete):
    command, path = incomplete
    args = argument_parser().parse_args(command)
    with pytest.raises(InputError, match=f"1 of 24 images of preflight_one are not on disk: {path}"):
        check(read_config(args), args)


def test_a_training_goes_without_an_image_where_that_is_allowed(incomplete):
    command, path = incomplete
    args = argument_parser().parse_args(["--allow-missing", *command])
    cfg = read_config(args)
    check(cfg, args)
    loader = build_train_loader(cfg)
    seen = {record["file_name"] for _, batch in zip(range(60), loader) for record in batch}
    assert str(path) not in seen
    assert len(seen) == 23


# ------------------------------------------------------------------ any file


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_no_file_is_too_odd_for_an_answer(tmp_path_factory, data):
    """Either it passes and can be loaded, or it is refused with reasons."""
    content = made()
    for _ in range(data.draw(st.integers(1, 3))):
        spoil(data, content)
    folder = tmp_path_factory.mktemp("odd")
    name = register(folder, content)
    try:
        preflight([name], [name])
        records = load_records(name)
        assert all(record["file_name"].startswith(str(folder)) for record in records)
    except InputError:
        pass
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def spoil(data, content):
    """Change, remove or repeat one element."""
    key = data.draw(st.sampled_from(sorted(content)))
    records = content[key]
    if not isinstance(records, list) or not records:
        content[key] = data.draw(json_values)
        return
    record = data.draw(st.sampled_from(records))
    kind = data.draw(st.sampled_from(["value", "value", "drop", "repeat", "record", "list"]))
    if kind in ("value", "drop") and isinstance(record, dict) and record:
        field = data.draw(st.sampled_from(sorted(record)))
        if kind == "drop":
            del record[field]
        else:
            record[field] = data.draw(json_values | st.sampled_from(["../x/7.jpg", "http://x/../7.jpg", 2**63, -1, 0]))
    elif kind == "repeat":
        records.append(record)
    elif kind == "record":
        records.append(data.draw(json_values))
    elif kind == "list" and data.draw(st.booleans()):
        content.pop(key)
