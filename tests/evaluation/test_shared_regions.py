"""Detections of several settings with shared regions, against each setting stored alone."""

import os

import numpy as np
import pytest

from balanced_lvis.evaluation import Detections, DetectionWriter, evaluate_detections
from balanced_lvis.evaluation.shared_regions import FILES, Selections, SelectionWriter
from balanced_lvis.utils.errors import StorageError
from tests.evaluation.made import box_mask, lvis_of, made_content

IMAGES, SETTINGS, CATEGORIES = 7, 3, 4


def made(seed):
    """Per image: boxes of its regions; per setting, the regions, scores and classes of its detections."""
    rng = np.random.default_rng(seed)
    found = {}
    for image_id in rng.permutation(range(1, IMAGES + 1)).tolist():
        number = int(rng.integers(0, 9))
        boxes = rng.integers([0, 0, 2, 2], [20, 12, 12, 12], (number, 4)).astype(np.float32)
        selections = []
        for _ in range(SETTINGS):
            regions = rng.permutation(number)[: rng.integers(0, number + 1)]
            scores = np.sort(rng.random(len(regions)).round(1))[::-1]
            selections.append((regions, scores, rng.integers(0, CATEGORIES, len(regions))))
        found[image_id] = boxes, selections
    return found


def written(folder, found, with_masks=True):
    regions, selections = DetectionWriter(folder / "regions"), SelectionWriter(folder / "selections")
    for image_id, (boxes, selected) in found.items():
        unused = [0] * len(boxes)
        rles = [box_mask(box) for box in boxes] if with_masks else None
        regions.write(image_id, boxes, unused, unused, rles)
        selections.write(selected)
    regions.close()
    selections.close()
    return Selections(folder / "selections", Detections(folder / "regions"), SETTINGS)


def stored_alone(folder, found, setting, image_ids, with_masks=True):
    writer = DetectionWriter(folder)
    for image_id, (boxes, selections) in found.items():
        if image_id in image_ids:
            regions, scores, classes = selections[setting]
            rles = [box_mask(box) for box in boxes[regions]] if with_masks else None
            writer.write(image_id, boxes[regions], scores, classes, rles)
    writer.close()
    return Detections(folder)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("with_masks", [True, False])
@pytest.mark.parametrize("image_ids", [None, (1, 4, 5), ()])
def test_a_setting_is_as_stored_alone(tmp_path, seed, with_masks, image_ids):
    found = made(seed)
    shared = written(tmp_path, found, with_masks)
    shared.require_whole()
    content = made_content([(1 + i % IMAGES, 1 + i % CATEGORIES, [2, 2, 9, 9]) for i in range(12)], images=IMAGES)
    for setting in range(SETTINGS):
        part = shared.of(setting, image_ids)
        kept = set(found) if image_ids is None else image_ids
        alone = stored_alone(tmp_path / "alone", found, setting, kept, with_masks)
        assert len(part) == len(alone) and part.num_images == alone.num_images == len(kept)
        assert part.has_masks == alone.has_masks
        for name in ("image_ids", "category_ids", "scores", "boxes"):
            values, expected = getattr(part, name), getattr(alone, name)
            assert values.dtype == expected.dtype
            np.testing.assert_array_equal(values, expected)
        assert [*part.records()] == [*alone.records()]
        for backend in ("fast", "official"):
            for task in ("bbox", "segm") if with_masks else ("bbox",):
                metrics, expected = (evaluate_detections(lvis_of(content), d, task, backend) for d in (part, alone))
                np.testing.assert_equal(metrics, expected)


@pytest.mark.parametrize("name", FILES)
def test_selections_that_lost_bytes_are_an_error(tmp_path, name):
    shared = written(tmp_path, made(0))
    path = tmp_path / "selections" / name
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(StorageError, match=f"{name} has .* bytes instead of"):
        shared.require_whole()


def test_selections_of_other_images_than_the_regions_are_an_error(tmp_path):
    written(tmp_path / "more", made(0))
    shared = written(tmp_path, dict([*made(0).items()][:-1]))
    other = Selections(tmp_path / "more" / "selections", shared.regions, SETTINGS)
    with pytest.raises(StorageError, match="they are of different images"):
        other.require_whole()
