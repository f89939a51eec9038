"""The rendered dataset: images, annotations and files on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
import unicodedata
from collections import Counter

import numpy as np
import pytest
import shapely
from PIL import Image
from pycocotools import mask as rle

from balanced_lvis.data.rendered import (
    SPLITS,
    RenderedSpec,
    alphabet,
    annotation_file,
    is_rendered,
    read_spec,
    render_dataset,
)
from balanced_lvis.data.rendered import dataset as disk
from balanced_lvis.data.rendered.glyphs import distinct_characters, outline, pairwise_iou, signature
from balanced_lvis.data.rendered.longtail import assign, balanced_counts, max_objects, train_counts
from balanced_lvis.data.rendered.lvis_json import draw_image, plan_splits
from balanced_lvis.data.rendered.paint import coverage
from balanced_lvis.data.rendered.scene import _place_all, draw_scene, to_polygons
from balanced_lvis.data.rendered.stickers import sticker
from balanced_lvis.utils.errors import InputError

SMALL = RenderedSpec(num_classes=20, train_images=60, val_images=24, test_images=4, seed=3)
TINY = RenderedSpec(
    num_classes=3,
    train_images=3,
    val_images=2,
    test_images=1,
    image_size=48,
    objects_per_image=2,
)


@pytest.fixture(scope="session")
def small_root(tmp_path_factory):
    return render_dataset(SMALL, tmp_path_factory.mktemp("rendered") / "small", workers=1)


@pytest.fixture(scope="session")
def small_drawings():
    """All train and val images of SMALL, drawn again."""
    plans = plan_splits(SMALL)
    return [draw_image(plans[s], i) for s in ("train", "val") for i in range(SMALL.num_images(s))]


def load(root, split):
    return json.loads(annotation_file(root, split).read_text(encoding="utf-8"))


def digests(root):
    """Relative path and content hash of every file."""
    files = [p for p in sorted(root.rglob("*")) if p.is_file()]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def decode(polygons, size=(128, 128)):
    return rle.decode(rle.merge(rle.frPyObjects(polygons, *size))).astype(bool)


def leftovers(root):
    return [p.name for p in root.parent.iterdir() if ".partial-" in p.name]


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


# --- the categories


def test_there_are_as_many_distinct_characters_as_lvis_has_categories():
    glyphs = alphabet(1203)
    names = [g.name for g in glyphs]
    assert len(glyphs) == len(set(names)) == len({g.character for g in glyphs}) == 1203
    assert all(n.isascii() and n.isprintable() and " " not in n for n in names)
    assert all(g.faces for g in glyphs)


def test_a_small_alphabet_is_letters_and_digits():
    glyphs = alphabet(58)
    assert all(unicodedata.category(g.character) in ("Lu", "Ll", "Nd") for g in glyphs)
    assert sum(g.character.isascii() for g in glyphs) >= 40
    assert [g.name for g in alphabet(20)] == [g.name for g in glyphs[:20]]


def test_no_two_categories_share_an_outline():
    characters, signatures = distinct_characters(1203)
    overlap = pairwise_iou(signatures, signatures)
    np.fill_diagonal(overlap, 0)
    assert overlap.max() <= 0.7
    assert len({"A", "\u0391", "\u0410"} & set(characters)) == 1  # Latin A, Greek Alpha, Cyrillic A


def test_in_every_face_a_character_is_closest_to_itself():
    glyphs = alphabet(58)
    own = np.stack([signature(outline(g.character, g.faces[0])) for g in glyphs])
    for i, glyph in enumerate(glyphs):
        drawn = np.stack([signature(outline(glyph.character, f)) for f in glyph.faces])
        assert (pairwise_iou(drawn, own).argmax(axis=1) == i).all(), glyph


# --- the stickers


def test_every_character_is_on_one_sticker_of_its_own_shape():
    for glyph in alphabet(1203)[::3]:
        for face in glyph.faces:
            found = sticker(glyph.character, face)
            width, height = found.extent
            assert found.backing.is_valid and not found.backing.interiors
            assert max(width, height) == pytest.approx(1)
            assert found.backing.bounds == pytest.approx((-width / 2, -height / 2, width / 2, height / 2), abs=1e-9)
            # A margin of 9% of the character's larger side, which is 1 / 1.18 of the sticker's.
            points = shapely.points(np.concatenate(found.character))
            assert shapely.contains(found.backing, points).all()
            distances = shapely.distance(found.backing.exterior, points)
            assert distances.min() == pytest.approx(0.09 / 1.18, abs=0.015)


def test_stickers_follow_the_shape_of_their_characters():
    """The backing is neither the bounding box nor the convex hull."""
    outlines = [sticker(glyph.character, glyph.faces[0]).backing for glyph in alphabet(58)]
    hull = [shape.area / shape.convex_hull.area for shape in outlines]
    assert min(hull) < 0.7 and np.mean(hull) < 0.9


def test_a_sticker_is_drawn_in_two_colours_that_can_be_told_apart(small_drawings):
    contrasts = []
    for drawn in small_drawings[:30]:
        image = drawn.scene.image.astype(float)
        for i in range(1, len(drawn.scene.objects) + 1):
            pixels = image[drawn.scene.id_map == i]
            contrasts.append(np.abs(np.quantile(pixels, 0.9, axis=0) - np.quantile(pixels, 0.1, axis=0)).max())
    assert min(contrasts) > 30 and np.median(contrasts) > 100


# --- how often each occurs


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


# --- pixels and polygons


def test_coverage_is_exact_for_a_rectangle_off_the_grid():
    square = np.array([[1.25, 1.5], [3.5, 1.5], [3.5, 3.0], [1.25, 3.0], [1.25, 1.5]])
    expected = np.outer([0, 0.5, 1, 0], [0, 0.75, 1, 0.5, 0])
    np.testing.assert_allclose(coverage([square], (slice(0, 4), slice(0, 5))), expected, atol=1e-6)


def test_drawn_pixels_and_annotations_agree(small_drawings):
    scores, common, either, occluded = [], 0, 0, 0
    for drawn in small_drawings:
        shown = [i for i, a in enumerate(drawn.annotated) if a]
        for i, annotation in zip(shown, drawn.annotations):
            pixels, mask = drawn.scene.id_map == i + 1, decode(annotation["segmentation"])
            scores.append(iou(pixels, mask))
            common, either = common + (pixels & mask).sum(), either + (pixels | mask).sum()
            visible = drawn.scene.objects[i].visible
            filled = [shapely.Polygon(p.exterior) for p in shapely.get_parts(visible)]
            whole = shapely.unary_union(filled)
            occluded += any(whole.intersects(o.visible) for o in drawn.scene.objects[i + 1 :])
    assert occluded > 30
    assert min(scores) > 0.75 and np.quantile(scores, 0.02) > 0.9
    assert common / either > 0.97


def test_the_agreement_grows_with_the_image():
    glyphs, rng = alphabet(58), np.random.default_rng(0)
    scene = draw_scene(glyphs, list(range(8, 18)), (480, 640), (0.16, 0.42), rng)
    for i, item in enumerate(scene.objects, start=1):
        assert iou(scene.id_map == i, decode(to_polygons(item.visible, (480, 640)), (480, 640))) > 0.97


@pytest.mark.parametrize("character", ["8", "0", "A", "B", "\u00ae", "%"])
def test_holes_are_cut_out_without_seams(character):
    shape = shapely.transform(outline(character, "DejaVuSans").shape, lambda p: p * 90 + 50.3)
    polygons = to_polygons(shape, (100, 100))
    pieces = [shapely.Polygon(np.reshape(p, (-1, 2))) for p in polygons]
    assert sum(len(part.interiors) for part in shapely.get_parts(shape)) >= 1
    assert all(p.is_valid for p in pieces)
    assert sum(p.area for p in pieces) == pytest.approx(shape.area, rel=0.005)
    rows, columns = np.mgrid[:100, :100] + 0.5
    assert iou(decode(polygons, (100, 100)), shapely.contains_xy(shape, columns, rows)) > 0.97


def test_at_least_55_percent_of_every_object_stays_visible():
    glyphs = alphabet(58)
    for seed in range(5):
        categories = np.random.default_rng(seed).integers(58, size=12).tolist()
        placed = _place_all(glyphs, categories, (128, 128), (0.3, 0.5), np.random.default_rng(seed))
        assert [p.category for p in placed] == categories
        assert all(p.visible.area >= 0.55 * p.area for p in placed)
        assert any(p.visible.area < 0.8 * p.area for p in placed)


def test_even_a_crowded_image_holds_all_that_is_asked_for():
    glyphs, categories = alphabet(58), list(range(42))
    scene = draw_scene(glyphs, categories, (48, 48), (0.16, 0.42), np.random.default_rng(0))
    assert [o.category for o in scene.objects] == categories
    assert all(decode(to_polygons(o.visible, (48, 48)), (48, 48)).any() for o in scene.objects)


@pytest.mark.parametrize("size", [(48, 96), (200, 133), (800, 1216)])
def test_objects_have_the_same_relative_size_in_any_image(size):
    scene = draw_scene(alphabet(58), [5, 10, 15], size, (0.3, 0.3), np.random.default_rng(0))
    assert scene.image.shape == (*size, 3) and scene.image.dtype == np.uint8
    for item in scene.objects:
        left, top, right, bottom = item.visible.bounds
        assert 0.1 * min(size) < max(right - left, bottom - top) < 0.45 * min(size)


def test_objects_stand_out_from_their_surroundings(small_drawings):
    for drawn in small_drawings[:30]:
        image = drawn.scene.image.astype(float)
        for i in range(1, len(drawn.scene.objects) + 1):
            inside = drawn.scene.id_map == i
            near = shapely.box(*drawn.scene.objects[i - 1].visible.buffer(3).bounds).bounds
            rows, columns = (slice(max(0, int(near[a])), int(near[a + 2])) for a in (1, 0))
            outside = image[rows, columns][drawn.scene.id_map[rows, columns] == 0]
            if len(outside) > 20:
                assert np.abs(image[inside].mean(axis=0) - outside.mean(axis=0)).max() > 20


# --- the records


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


# --- on disk


def test_the_same_spec_gives_the_same_bytes_whatever_the_workers(small_root, tmp_path):
    again = render_dataset(SMALL, tmp_path / "again", workers=2)
    assert digests(again) == digests(small_root)


def test_another_seed_gives_another_data_set(tmp_path):
    one = digests(render_dataset(TINY, tmp_path / "one", workers=1))
    other = digests(render_dataset(dataclasses.replace(TINY, seed=1), tmp_path / "other", workers=1))
    assert one.keys() == other.keys()
    assert not set(one.values()) & set(other.values())


def test_a_data_set_with_these_parameters_is_left_alone_and_one_with_others_is_replaced(tmp_path):
    root = render_dataset(TINY, tmp_path / "set", workers=1)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert render_dataset(TINY, root, workers=1) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    other = dataclasses.replace(TINY, num_classes=4)
    assert read_spec(root) == TINY and not is_rendered(other, root)
    render_dataset(other, root, workers=1)
    assert read_spec(root) == other and is_rendered(other, root)
    assert len(load(root, "val")["categories"]) == 4
    assert not leftovers(root)


@pytest.mark.parametrize(
    "victim",
    ["annotations/rendered_val.json", "spec.json.version", "train/000000000001.jpg"],
)
def test_a_damaged_data_set_is_made_again(tmp_path, victim):
    root = render_dataset(TINY, tmp_path / "set", workers=1)
    whole = digests(root)
    if victim == "spec.json.version":
        document = json.loads((root / "spec.json").read_text())
        (root / "spec.json").write_text(json.dumps({**document, "version": 0}))
    else:
        (root / victim).unlink()
    assert not is_rendered(TINY, root)
    assert digests(render_dataset(TINY, root, workers=1)) == whole


@pytest.mark.parametrize("name", ["annotations/rendered_train.json", "train/000000000001.jpg"])
def test_a_data_set_that_lost_contents_is_made_again(tmp_path, name):
    root = render_dataset(TINY, tmp_path / "set", workers=1)
    whole, path = digests(root), root / name
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"id":1,', b'"id":9,', 1) if name.endswith("json") else b"")
    assert path.read_bytes() != content
    assert not is_rendered(TINY, root)
    assert digests(render_dataset(TINY, root, workers=1)) == whole


def test_a_build_that_fails_leaves_the_old_data_set_and_no_remains(tmp_path, monkeypatch):
    root = render_dataset(TINY, tmp_path / "set", workers=1)

    def fail(drawn, folder):
        raise OSError("disk full")

    monkeypatch.setattr(disk, "save_image", fail)
    with pytest.raises(OSError, match="disk full"):
        render_dataset(dataclasses.replace(TINY, seed=1), root, workers=1)
    assert is_rendered(TINY, root) and not leftovers(root)


def test_a_build_killed_half_way_is_not_taken_for_whole_and_the_next_one_finishes(tmp_path):
    root, spec = tmp_path / "set", dataclasses.replace(TINY, train_images=5000)
    code = f"from balanced_lvis.data.rendered import *; render_dataset({spec!r}, {str(root)!r}, workers=2)"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("set.partial-*/train/*.jpg")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert leftovers(root) and not root.exists()
    assert not is_rendered(spec, root)
    assert not any(is_rendered(spec, tmp_path / name) for name in leftovers(root))
    time.sleep(1.2)  # until its workers have noticed
    render_dataset(TINY, root, workers=1)
    assert is_rendered(TINY, root) and not leftovers(root)


def test_two_processes_at_once_make_one_data_set(tmp_path):
    import multiprocessing

    spec, context = dataclasses.replace(TINY, train_images=30), multiprocessing.get_context("fork")
    builders = [context.Process(target=render_dataset, args=(spec, tmp_path / "set", 1)) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
    assert [b.exitcode for b in builders] == [0, 0, 0]
    assert is_rendered(spec, tmp_path / "set") and not leftovers(tmp_path / "set")


def test_a_folder_with_other_contents_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("precious")
    with pytest.raises(InputError, match="root is .*thesis"):
        render_dataset(TINY, tmp_path / "thesis", workers=1)
    with pytest.raises(InputError, match=r"root is .*chapter1\.tex"):
        render_dataset(TINY, tmp_path / "thesis" / "chapter1.tex", workers=1)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "precious"


def test_a_rendered_folder_with_additions_is_used_but_never_replaced(tmp_path):
    root = render_dataset(TINY, tmp_path / "set", workers=1)
    (root / "notes.txt").write_text("precious")
    assert render_dataset(TINY, root, workers=1) == root
    with pytest.raises(InputError, match=r"notes\.txt"):
        render_dataset(dataclasses.replace(TINY, seed=1), root, workers=1)
    assert (root / "notes.txt").exists() and is_rendered(TINY, root)


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path):
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "a" / "b"):
        assert is_rendered(TINY, render_dataset(TINY, root, workers=1))


# --- arguments


@pytest.mark.parametrize(
    "name, value",
    [
        ("num_classes", 0),
        ("num_classes", 1204),
        ("num_classes", 2.5),
        ("train_images", 0),
        ("val_images", -1),
        ("test_images", True),
        ("image_size", 47),
        ("image_size", (128, 40)),
        ("image_size", (128, 128, 3)),
        ("image_size", "128"),
        ("objects_per_image", 0),
        ("objects_per_image", 21),
        ("object_scale", (0.5, 0.2)),
        ("object_scale", 0.3),
        ("object_scale", (0.01, 0.2)),
        ("object_scale", ("a", "b")),
        ("seed", -1),
        ("seed", None),
    ],
)
def test_a_bad_parameter_is_named_with_its_value(name, value):
    with pytest.raises(InputError, match=f"{name} is .*{str(value)[:4].strip('()')}"):
        RenderedSpec(**{name: value})


def test_a_bad_number_of_workers_split_or_classes_is_named(tmp_path):
    with pytest.raises(InputError, match="workers is 0"):
        render_dataset(TINY, tmp_path / "set", workers=0)
    with pytest.raises(InputError, match="split is 'test'"):
        annotation_file(tmp_path, "test")
    with pytest.raises(InputError, match="num_classes is 2000"):
        alphabet(2000)


def test_equal_parameters_make_equal_specs():
    assert RenderedSpec(image_size=128) == RenderedSpec(image_size=[128, np.int64(128)]) == RenderedSpec()
    assert repr(RenderedSpec(image_size=[128, np.int64(128)])) == repr(RenderedSpec())


def test_a_folder_without_a_data_set_has_no_spec(tmp_path):
    assert read_spec(tmp_path) is None
    assert not is_rendered(TINY, tmp_path / "nowhere")
