"""How often each category occurs, and the records of the annotation files."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from balanced_lvis.data.rendered import (
    SPLITS,
    RenderedSpec,
    annotation_file,
)
from balanced_lvis.data.rendered.longtail import assign, balanced_counts, max_objects, train_counts
from balanced_lvis.data.rendered.lvis_json import draw_image, plan_splits
from tests.data.rendered.made import SMALL, decode, load


def test_the_default_train_split_has_lvis_groups_in_lvis_proportions():
    spec = RenderedSpec()
    counts = train_counts(spec.num_classes, spec.train_images, spec.objects_per_image, np.random.default_rng(0))
    groups = [(counts <= 10).sum(), ((counts > 10) & (counts <= 100)).sum(), (counts > 100).sum()]
    assert counts.min() >= 1
    assert np.allclose(np.array(groups) / len(counts), np.array([337, 461, 405]) / 1203, atol=1 / len(counts))
    # Spread over each group's range, not concentrated.
    assert {1, 10, 11, 100, 101} <= set(counts.tolist())
    assert counts.max() > 200


def test_frequency_does_not_follow_the_alphabet():
    one, other = (train_counts(58, 1200, 5, np.random.default_rng(seed)) for seed in (0, 1))
    assert sorted(one) == sorted(other) and not np.array_equal(one, other)
    assert abs(np.corrcoef(np.arange(58), np.log(one))[0, 1]) < 0.35


@pytest.mark.parametrize(
    "classes, images, objects",
    [(58, 1200, 5), (1203, 1200, 5), (8, 40, 4), (300, 60, 5), (1, 10, 5), (2, 1, 1)],
)
def test_every_category_is_in_exactly_its_number_of_images(classes, images, objects):
    rng = np.random.default_rng(0)
    counts = train_counts(classes, images, objects, rng)
    plan = assign(counts, images, objects, rng)
    found = Counter(c for image in plan for c in set(image))
    assert counts.min() >= 1
    assert [found[c] for c in range(classes)] == counts.tolist()
    assert max(map(len, plan)) <= max_objects(objects)
    assert min(map(len, plan)) >= (1 if counts.sum() >= images else 0)


def test_images_hold_as_many_objects_as_asked_on_average_and_some_repeat_a_category():
    plan = plan_splits(RenderedSpec())["train"].categories
    assert np.mean([len(image) for image in plan]) == pytest.approx(5, abs=0.25)
    assert any(len(image) > len(set(image)) for image in plan)


def test_where_images_are_few_for_the_vocabulary_the_tail_stays_long():
    counts = train_counts(1203, 1200, 5, np.random.default_rng(0))
    assert counts.sum() <= 1200 * 5
    assert counts.max() > 250 and np.median(counts) == 1


def test_categories_without_room_have_no_image_and_that_is_logged_once(caplog):
    with caplog.at_level(logging.WARNING):
        counts = train_counts(100, 3, 5, np.random.default_rng(0))
    assert sorted(counts)[-37:] == [0] + [1] * 36  # 3 images of at most 12 objects
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "64 of 100" in caplog.text


def test_val_shows_every_category_equally_often():
    rng = np.random.default_rng(0)
    for classes, images in ((58, 300), (1203, 300), (3, 10)):
        counts = balanced_counts(classes, images, 5, rng, "val")
        assert counts.min() >= 1 and np.ptp(counts) <= 1


def test_too_small_a_val_split_is_logged(caplog):
    counts = balanced_counts(100, 3, 5, np.random.default_rng(0), "val")
    assert sorted(set(counts.tolist())) == [0, 1] and counts.sum() == 36
    assert "64 of 100 categories have no val image" in caplog.text


def test_the_unmodified_lvis_api_loads_every_split(small_root):
    from lvis import LVIS

    for split in SPLITS:
        lvis = LVIS(str(annotation_file(small_root, split)))
        assert len(lvis.get_img_ids()) == SMALL.num_images(split)
        assert sorted(lvis.get_cat_ids()) == list(range(1, 21))
        for annotation in lvis.load_anns(lvis.get_ann_ids())[:20]:
            assert lvis.ann_to_mask(annotation).sum() == annotation["area"]


def test_counts_in_every_file_are_those_of_the_train_split(small_root):
    annotations = load(small_root, "train")["annotations"]
    instances = Counter(a["category_id"] for a in annotations)
    images = Counter(c for _, c in {(a["image_id"], a["category_id"]) for a in annotations})
    for split in SPLITS:
        for category in load(small_root, split)["categories"]:
            assert category["instance_count"] == instances[category["id"]]
            assert category["image_count"] == images[category["id"]]
            count = category["image_count"]
            assert category["frequency"] == ("r" if count <= 10 else "c" if count <= 100 else "f")


def test_polygons_are_valid_and_inside_the_image(small_root):
    for split in ("train", "val"):
        for annotation in load(small_root, split)["annotations"]:
            assert annotation["segmentation"] and annotation["area"] > 0
            corners = np.concatenate([np.reshape(p, (-1, 2)) for p in annotation["segmentation"]])
            assert all(len(p) >= 6 and len(p) % 2 == 0 for p in annotation["segmentation"])
            assert (corners >= 0).all() and (corners <= 128).all()
            assert np.array_equal(corners, corners.round(2))
            box = [*corners.min(axis=0), *np.ptp(corners, axis=0)]
            np.testing.assert_allclose(annotation["bbox"], box, atol=0.006)
            assert annotation["area"] == decode(annotation["segmentation"]).sum()


def test_ids_are_unique_over_all_splits_and_images_are_where_their_url_says(small_root):
    files = [load(small_root, split) for split in SPLITS]
    for key in ("images", "annotations"):
        ids = [item["id"] for file in files for item in file[key]]
        assert len(ids) == len(set(ids)) > 0
    for split, file in zip(SPLITS, files):
        assert len(os.listdir(small_root / split)) == SMALL.num_images(split)
        for image in file["images"]:
            assert "file_name" not in image
            folder, name = image["coco_url"].split("/")[-2:]
            assert folder == split
            with Image.open(small_root / folder / name) as jpeg:
                assert jpeg.size == (image["width"], image["height"]) == (128, 128)


def test_test_dev_tells_nothing_about_its_images(small_root):
    content = load(small_root, "test_dev")
    assert content["annotations"] == []
    assert not any("neg_category_ids" in i or "not_exhaustive_category_ids" in i for i in content["images"])


def test_negative_categories_are_absent_and_not_exhaustive_ones_have_an_unannotated_object():
    plan = plan_splits(dataclasses.replace(SMALL, train_images=150))["train"]
    hidden_images = 0
    for drawn in (draw_image(plan, i) for i in range(150)):
        present = Counter(o.category + 1 for o in drawn.scene.objects)
        annotated = Counter(a["category_id"] for a in drawn.annotations)
        negative, loose = (set(drawn.record[f"{k}_category_ids"]) for k in ("neg", "not_exhaustive"))
        assert 4 <= len(negative) <= 8 and not negative & set(present)
        assert {c for c in present if present[c] > annotated[c]} == loose <= set(annotated)
        hidden_images += bool(loose)
    assert 1 <= hidden_images <= 18  # 5% of 150 are 7.5
