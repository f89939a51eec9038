"""Characters, stickers, and pixels that agree with their polygons."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import shapely

from balanced_lvis.data.rendered import (
    alphabet,
)
from balanced_lvis.data.rendered.glyphs import distinct_characters, outline, pairwise_iou, signature
from balanced_lvis.data.rendered.paint import coverage
from balanced_lvis.data.rendered.scene import _place_all, draw_scene, to_polygons
from balanced_lvis.data.rendered.stickers import sticker
from tests.data.rendered.made import decode, iou


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
