"""Detections on the disk: what was written is what is read, in the same order, bit by bit."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balanced_lvis.evaluation import Detections, DetectionWriter
from balanced_lvis.evaluation import detection_store as module
from balanced_lvis.utils.checksums import Checksum, write_manifest
from balanced_lvis.utils.errors import StorageError
from balanced_lvis.utils.io import write_json
from tests.evaluation.made import box_mask

BOX = [4.5, 4.25, 10.1, 8.7]


def write(folder, *images) -> Detections:
    writer = DetectionWriter(folder)
    for image in images:
        writer.write(*image)
    writer.close()
    return Detections(folder)


def random_image(rng, image_id, number):
    boxes = rng.uniform(-3, 30, (number, 4)).astype(np.float32)
    rles = [box_mask(np.abs(box) % 20) for box in boxes]
    return image_id, boxes, rng.random(number, dtype=np.float32), rng.integers(0, 1203, number), rles


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 7), max_size=5), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_what_was_written_is_read_in_its_order(tmp_path_factory, numbers, batch, seed):
    rng = np.random.default_rng(seed)
    images = [random_image(rng, 10 * index, number) for index, number in enumerate(numbers)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH", batch)
        found = write(tmp_path_factory.mktemp("store"), *images)
        records = [record for part in found.records() for record in part]
    expected = [
        {
            "image_id": image_id,
            "category_id": class_index + 1,
            "bbox": box,
            "score": score,
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
        }
        for image_id, boxes, scores, classes, rles in images
        for box, score, class_index, rle in zip(boxes.tolist(), scores.tolist(), classes.tolist(), rles)
    ]
    assert records == expected
    assert [list(record) for record in records] == [list(record) for record in expected]
    assert len(found) == sum(numbers)
    assert found.num_images == len(numbers)


@settings(deadline=None, max_examples=50)
@given(st.data(), st.integers(1, 9))
def test_the_masks_of_some_rows_are_read_alone(tmp_path_factory, data, batch):
    rng = np.random.default_rng(0)
    images = [random_image(rng, index, 6) for index in range(4)]
    found = write(tmp_path_factory.mktemp("store"), *images)
    rows = sorted(data.draw(st.sets(st.integers(0, 23))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH", batch)
        assert list(found.rles(np.array(rows, int))) == [images[row // 6][4][row % 6] for row in rows]


def test_the_results_file_is_what_write_json_makes_of_all_results(tmp_path):
    rng = np.random.default_rng(0)
    found = write(tmp_path / "store", *[random_image(rng, index, 5) for index in range(3)])
    found.save_json(tmp_path / "streamed.json")
    write_json(tmp_path / "whole.json", [record for batch in found.records() for record in batch])
    assert (tmp_path / "streamed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_no_results_are_an_empty_list(tmp_path):
    write(tmp_path / "store").save_json(tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_detections_without_masks_have_none(tmp_path):
    found = write(tmp_path, (7, [BOX], [0.5], [3]), (8, np.zeros((0, 4)), [], []))
    assert not found.has_masks
    boxes = np.float32([BOX]).tolist()
    assert list(found.records()) == [[{"image_id": 7, "category_id": 4, "bbox": boxes[0], "score": 0.5}]]


def test_category_ids_may_be_the_data_sets_own(tmp_path):
    write(tmp_path, (7, [BOX, BOX], [0.5, 0.4], [2, 0]))
    assert Detections(tmp_path, [30, 10, 99]).category_ids.tolist() == [99, 30]


def test_what_an_earlier_writer_left_is_overwritten(tmp_path):
    write(tmp_path, (7, [BOX], [0.5], [3], [box_mask(BOX)]))
    assert len(write(tmp_path, (8, [BOX], [0.5], [3]))) == 1
    assert not Detections(tmp_path).has_masks


def test_nothing_stays_after_delete(tmp_path):
    found = write(tmp_path / "store", (7, [BOX], [0.5], [3]))
    found.delete()
    assert os.listdir(tmp_path) == []


def test_a_detection_takes_32_bytes_and_its_mask(tmp_path):
    rles = [box_mask(BOX)] * 100
    found = write(tmp_path, (7, [BOX] * 100, [0.5] * 100, [1] * 100, rles))
    size = sum((found.folder / name).stat().st_size for name in module.FILES)
    assert size == 100 * (32 + len(rles[0]["counts"])) + module.IMAGE.itemsize


def test_arguments_that_do_not_belong_together_are_refused(tmp_path):
    writer = DetectionWriter(tmp_path)
    with pytest.raises(ValueError, match="image 7 have different lengths: .*'classes': 2"):
        writer.write(7, [BOX], [0.5], [1, 2])
    with pytest.raises(ValueError, match="image 7 have different lengths: .*'lengths': 1"):
        writer.write(7, [BOX, BOX], [0.5, 0.5], [1, 2], [box_mask(BOX)])
    other = {"size": [9, 9], "counts": "a1"}
    with pytest.raises(ValueError, match="image 7 have different sizes"):
        writer.write(7, [BOX, BOX], [0.5, 0.5], [1, 2], [box_mask(BOX), other])
    writer.close()
    assert len(Detections(tmp_path)) == 0


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("number", [0, 3])
def test_what_was_written_is_whole(tmp_path, number, exact):
    writer = DetectionWriter(tmp_path, exact_boxes=exact)
    writer.write(*random_image(np.random.default_rng(0), 7, number))
    writer.close()
    assert Detections(tmp_path).damage() == ""


@pytest.mark.parametrize("name", module.FILES)
def test_a_file_that_lost_or_changed_a_byte_is_named(tmp_path, name):
    found = write(tmp_path, random_image(np.random.default_rng(0), 7, 3))
    content = (tmp_path / name).read_bytes()
    for other in (content[:-1], content + b"0", bytes([content[0] ^ 1]) + content[1:]):
        (tmp_path / name).write_bytes(other)
        assert str(tmp_path / name) in found.damage()
        with pytest.raises(StorageError, match="Stored detections are damaged"):
            found.require_whole()
    (tmp_path / name).write_bytes(content)
    assert found.damage() == ""


def test_columns_of_different_lengths_are_damage_even_if_their_checksums_are_right(tmp_path):
    found = write(tmp_path, random_image(np.random.default_rng(0), 7, 3))
    for name in ("scores", "lengths", module.MASKS, module.IMAGES):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 24 * 12])
        write_manifest(tmp_path, {name: Checksum.of_file(tmp_path / name) for name in module.FILES})
        assert "not the files of" in found.damage()
        (tmp_path / name).write_bytes(content)


def test_a_folder_whose_writer_was_killed_is_not_whole(tmp_path):
    write(tmp_path, random_image(np.random.default_rng(0), 7, 3))
    DetectionWriter(tmp_path)  # overwrites, and is never closed
    assert "checksums.json is missing" in Detections(tmp_path).damage()
