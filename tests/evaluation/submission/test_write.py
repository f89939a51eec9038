"""A submission's files: what is kept of the detections, and that their numbers are those of the detections."""

import json
import os

import numpy as np
import pytest
from pycocotools import mask as mask_util

from balanced_lvis.evaluation import evaluate_detections, evaluate_on_lvis
from balanced_lvis.evaluation.detection_store import FILES
from balanced_lvis.evaluation.submission.chunks import Chunks
from balanced_lvis.evaluation.submission.compressed_rle import REASONS, mask_areas
from balanced_lvis.evaluation.submission.results_writer import write_submission
from balanced_lvis.utils.checksums import MANIFEST
from balanced_lvis.utils.errors import StorageError
from soak.failing_writes import FailingWrites
from tests.evaluation.made import HEIGHT, WIDTH, box_mask, lvis_of, made_content, stored

EMPTY = mask_util.encode(np.zeros((HEIGHT, WIDTH), np.uint8, order="F"))


def drawn(rng, number, images=6):
    """Objects, and detections near them, some of them empty."""
    boxes = rng.integers([0, 0, 4, 4], [18, 10, 12, 12], (number, 4))
    objects = [(int(rng.integers(1, images + 1)), int(rng.integers(1, 5)), box.tolist()) for box in boxes]
    found = []
    for image, category, box in sorted(objects * 2):
        moved = np.float32(box + rng.normal(0, 0.7, 4)).tolist()
        mask = [EMPTY] if rng.random() < 0.2 else []
        found.append((image, category, moved, float(np.float32(round(rng.random(), 1))), *mask))
    return objects, found


@pytest.mark.parametrize("limit", [5, 300])
def test_the_files_numbers_are_those_of_the_detections(tmp_path, limit):
    objects, found = drawn(np.random.default_rng(0), 40)
    content, detections = made_content(objects, images=6), stored(tmp_path / "store", found)
    segm, bbox = write_submission(lambda: [detections], tmp_path / "made", max_dets=limit)
    assert segm.over_limit == bbox.over_limit == (0 if limit == 300 else 80 - 6 * limit)
    assert segm.without_area > 0 and bbox.without_area == 0
    for task, written in zip(("segm", "bbox"), (segm, bbox)):
        records = json.loads(written.path.read_text())
        assert len(records) == written.num_detections
        expected, _ = evaluate_detections(lvis_of(content), detections, task, "official", limit)
        metrics, _ = evaluate_on_lvis(lvis_of(content), records, task)
        assert expected["AP"] > 5
        np.testing.assert_array_equal(list(metrics.values()), list(expected.values()))


def test_the_first_of_equal_scores_are_kept(tmp_path):
    boxes = [[k, 0, 5, 5] for k in range(8)]
    detections = stored(tmp_path / "store", [(1, 1 + k % 3, box, 0.5) for k, box in enumerate(boxes)])
    _, written = write_submission(lambda: [detections], tmp_path / "made", max_dets=3)
    assert [record["bbox"] for record in json.loads(written.path.read_text())] == boxes[:3]


def test_detections_without_masks_make_a_box_file_only(tmp_path):
    detections = stored(tmp_path / "store", [(1, 1, [0, 0, 5, 5], 0.5)], with_masks=False)
    (written,) = write_submission(lambda: [detections], tmp_path / "made", masks=False, zipped=True)
    assert written.path.name == "made_bbox.json.zip"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made_bbox.json.zip", "store"]


def test_a_chunk_that_fails_leaves_nothing(tmp_path):
    chunks = Chunks(tmp_path / "chunks", 2)
    chunks.begin({"checkpoint": "a"}, 5)
    with chunks.writing(0) as writer:
        writer.write(1, [[0, 0, 5, 5]], [0.5], [0], [box_mask([0, 0, 5, 5])])
        writer.write(2, np.zeros((0, 4)), [], [], [])
    with pytest.raises(RuntimeError), chunks.writing(1) as writer:
        raise RuntimeError
    assert chunks.missing(5) == [1, 2]
    assert sorted(path.name for path in chunks.folder.iterdir()) == ["000000", "origin.json"]


def interrupted(folder) -> Chunks:
    """Three chunks of two images, one of which is not done."""
    chunks = Chunks(folder, 2)
    chunks.begin({"checkpoint": "a"}, 6)
    for number in (0, 1):
        with chunks.writing(number) as writer:
            for image in chunks.images(number, 6):
                boxes = [[0, 0, 5 + k, 5] for k in range(image + 1)]
                writer.write(image, boxes, [0.5] * len(boxes), [0] * len(boxes), [box_mask(box) for box in boxes])
    return chunks


def cut_to_half(path):
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def lengthen(path):
    with open(path, "ab") as file:
        file.write(bytes(8))


@pytest.mark.parametrize("damage", [cut_to_half, flip_a_bit, lengthen, os.unlink])
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_damaged_chunk_is_never_taken_for_whole(tmp_path, caplog, name, damage):
    interrupted(tmp_path)
    damage(tmp_path / "000001" / name)
    resumed = Chunks(tmp_path, 2)
    assert resumed.missing(6) == [2]
    with pytest.raises(StorageError, match="000001"):  # what is damaged later on is found before it is written
        list(resumed.detections(4))
    resumed.begin({"checkpoint": "a"}, 6)
    assert resumed.missing(6) == [1, 2]
    (message,) = (record.getMessage() for record in caplog.records)
    assert "1 of 2 chunks" in message and "computed again" in message and "000001" in message


def test_a_chunk_of_fewer_images_is_damaged(tmp_path, caplog):
    interrupted(tmp_path / "a")
    chunks = Chunks(tmp_path / "a", 2)
    with chunks.writing(2) as writer:
        writer.write(4, np.zeros((0, 4)), [], [], [])
    chunks.begin({"checkpoint": "a"}, 6)
    assert chunks.missing(6) == [2]
    assert "has 1 images, not 2" in caplog.text


def test_a_chunk_that_fails_on_a_full_disk_leaves_nothing(tmp_path):
    chunks = Chunks(tmp_path / "chunks", 2)
    chunks.begin({"checkpoint": "a"}, 5)
    failing = FailingWrites(str(tmp_path), 10**9)
    with pytest.raises(RuntimeError, match="no more images"), failing.armed(), chunks.writing(0) as writer:
        writer.write(1, [[0, 0, 5, 5]], [0.5], [0], [box_mask([0, 0, 5, 5])])
        failing.number = failing.count + 1
        raise RuntimeError("no more images")
    assert failing.has_failed
    assert sorted(path.name for path in chunks.folder.iterdir()) == ["origin.json"]


@pytest.mark.parametrize("origin", ["{", "[1]", "null", "[" * 100_000])
def test_chunks_without_an_origin_are_computed_again_and_counted(origin, tmp_path, caplog):
    interrupted(tmp_path)
    (tmp_path / "origin.json").write_text(origin)
    resumed = Chunks(tmp_path, 2)
    resumed.begin({"checkpoint": "a"}, 6)
    assert resumed.missing(6) == [0, 1, 2]
    assert "2 chunks will be computed again" in caplog.text


def test_whole_chunks_are_kept_without_a_word(tmp_path, caplog):
    interrupted(tmp_path)
    resumed = Chunks(tmp_path, 2)
    resumed.begin({"checkpoint": "a"}, 6)
    assert resumed.missing(6) == [2]
    assert [len(part) for part in resumed.detections(4)] == [3, 7]
    assert not caplog.records


def test_areas_are_pycocotools(tmp_path):
    rng = np.random.default_rng(0)
    masks = [rng.random(rng.integers(1, 40, 2)) < share for share in [0, 1, *rng.random(200)]]
    rles = [mask_util.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks]
    areas, codes = mask_areas([rle["counts"].decode() for rle in rles], np.array([mask.size for mask in masks]))
    assert areas.tolist() == [int(mask.sum()) for mask in masks]
    assert not codes.any()


def test_a_counts_that_is_no_mask_says_why():
    reasons = {"": 5, "P": 2, "0": 5, "z\xff": 1, " ": 1, "oooooooooo0": 3, "1N1": 4, "0" * 100: 6, "4": 0, "13": 0}
    areas, codes = mask_areas(list(reasons), np.full(len(reasons), 4))
    assert [REASONS[code] for code in codes] == [REASONS[code] for code in reasons.values()]
    assert areas.tolist() == [0] * 9 + [3]
