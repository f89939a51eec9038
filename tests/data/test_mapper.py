"""Training records equal those of Detectron2's mapper to the bit, and so do the random numbers after them."""

import itertools

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from detectron2.structures.masks import polygons_to_bitmask
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from balanced_lvis.data.images import instance_transforms
from balanced_lvis.data.images.image_files import read_image, read_pil_image
from balanced_lvis.data.images.image_transforms import are_of_size
from balanced_lvis.data.images.instance_transforms import to_instances
from balanced_lvis.data.mapper import ImageMapper
from benchmarks.mapping import are_equal, photographs
from tests.common import SHARED_DATA
from tests.data.turned import save_turned

PHOTOGRAPHS = SHARED_DATA / "coco_tiny"


def config(mask_format="polygon", crop=False, flip="horizontal", masks=True, image_format="BGR"):
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = masks
    cfg.INPUT.MASK_FORMAT = mask_format
    cfg.INPUT.FORMAT = image_format
    cfg.INPUT.CROP.ENABLED = crop
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "relative_range", [0.3, 0.3]
    cfg.INPUT.RANDOM_FLIP = flip
    cfg.INPUT.MIN_SIZE_TRAIN = (96, 128, 160)
    return cfg


def check_equal(cfg, records, change=lambda mapper: mapper):
    mappers = [change(kind(cfg, True)) for kind in (DatasetMapper, ImageMapper)]
    for seed, record in enumerate(records):
        before, outcomes = repr(record), []
        for mapper in mappers:
            np.random.seed(seed)
            outcomes.append((mapper(record), np.random.random()))
        assert are_equal(outcomes[0][0], outcomes[1][0])
        assert outcomes[0][1] == outcomes[1][1]
        assert outcomes[1][0]["image"].is_contiguous()
        assert repr(record) == before


@pytest.fixture
def record(tmp_path):
    """An image with objects of every kind."""
    rng = np.random.default_rng(5)
    Image.fromarray(rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)).save(tmp_path / "a.png")

    def one(polygons, box=(10.5, 8.25, 30.0, 20.0), **keys):
        return {"bbox": list(box), "bbox_mode": BoxMode.XYWH_ABS, "category_id": 3, "segmentation": polygons, **keys}

    made = [np.round(rng.uniform(-10, 90, 2 * n), 2).tolist() for n in (3, 4, 7, 20)]
    return {
        "file_name": str(tmp_path / "a.png"),
        "width": 80,
        "height": 60,
        "image_id": 1,
        "neg_category_ids": [1, 2],
        "annotations": [
            *(one([polygon]) for polygon in made),
            one(made[:3]),
            one([made[0]], iscrowd=1),
            one([[1.0, 1.0, 1.1, 1.0, 1.1, 1.1]]),  # no pixel
            one([made[1]], box=(3.0, 4.0, 0.0, 5.0)),
            one([made[1]], box=(70.5, 50.0, 30.0, 40.0)),
        ],
    }


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize("flip", ["horizontal", "vertical", "none"])
def test_records_of_made_objects_are_equal(record, mask_format, flip, crop):
    check_equal(config(mask_format, crop, flip), 6 * [record])


@pytest.mark.parametrize(
    "options", [{"masks": False}, {"image_format": "RGB"}, {"image_format": "L"}, {"image_format": "YUV-BT.601"}]
)
def test_records_of_other_configs_are_equal(record, options):
    check_equal(config(**options), 3 * [record])


@pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason="photographs are not part of the repository")
@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_records_of_photographs_are_equal(mask_format):
    check_equal(config(mask_format), photographs(PHOTOGRAPHS, 12.7)[:12])


def whole(polygon):
    return [int(number) for number in polygon]


UNUSUAL = {
    "integers": lambda one: one.update(segmentation=[whole(p) for p in one["segmentation"]], bbox=whole(one["bbox"])),
    "arrays": lambda one: one.update(segmentation=[np.array(p) for p in one["segmentation"]]),
    "box of another mode": lambda one: one.update(bbox_mode=BoxMode.XYXY_ABS),
    "box of integers": lambda one: one.update(bbox=[3, 4, 20, 30]),
    "box as a tuple": lambda one: one.update(bbox=(3.5, 4.0, 20.0, 30.0)),
}


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("change", UNUSUAL.values(), ids=UNUSUAL)
@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_records_of_unusual_annotations_are_equal(record, change, mask_format, crop):
    for one in record["annotations"]:
        change(one)
    check_equal(config(mask_format, crop), 3 * [record])


@pytest.mark.parametrize("crop", [False, True])
def test_records_of_rle_masks_are_equal(record, crop):
    from pycocotools import mask as mask_util

    for one in record["annotations"]:
        one["segmentation"] = mask_util.merge(mask_util.frPyObjects(one["segmentation"], 60, 80))
    check_equal(config("bitmask", crop), 3 * [record])


def test_an_image_without_objects_is_equal(record):
    check_equal(config(), [{**record, "annotations": []}])
    check_equal(config(), [{**record, "annotations": record["annotations"][5:6]}])  # a crowd region


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_an_image_without_objects_can_be_cropped(record, mask_format):
    """Detectron2's mapper fails, as there are no masks from which it could compute the boxes."""
    mapper = ImageMapper(config(mask_format, crop=True), True)
    assert mapper.recompute_boxes
    for annotations in ([], record["annotations"][5:6]):  # a crowd region
        assert len(mapper({**record, "annotations": annotations})["instances"]) == 0


def save_16_bit(image, path):
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path)


def save_rgba(image, path):
    image = image.copy()
    image.putalpha(image.getchannel("R"))
    image.save(path)


# How they are saved, and whether Detectron2 reads the same pixels.
IMAGES = {
    "greyscale.png": (lambda image, path: image.convert("L").save(path), True),
    "palette.png": (lambda image, path: image.quantize(16).save(path, transparency=0), False),
    "cmyk.jpg": (lambda image, path: image.convert("CMYK").save(path), True),
    "16_bit.png": (save_16_bit, False),
    "rgba.png": (save_rgba, False),
    "turned.png": (lambda image, path: save_turned(path, image.transpose(Image.Transpose.ROTATE_90), 6), True),
}


@pytest.mark.parametrize("name", IMAGES)
def test_records_of_images_of_every_kind_are_equal(record, tmp_path, monkeypatch, name):
    save, is_read_alike = IMAGES[name]
    path = tmp_path / name
    with Image.open(record["file_name"]) as image:
        save(image, path)
    pixels = read_image(path, "RGB", (80, 60))
    assert np.array_equal(np.asarray(read_pil_image(path, (80, 60))), pixels)
    assert np.array_equal(utils.read_image(str(path), "RGB"), pixels) == is_read_alike
    if not is_read_alike:
        monkeypatch.setattr(utils, "read_image", lambda name, **options: read_image(name, options["format"]))
    check_equal(config(), 3 * [{**record, "file_name": str(path)}])


@pytest.mark.parametrize("pad", [False, True])
def test_records_of_large_scale_jittering_are_equal(record, pad):
    """Scales from smaller to larger than the crop."""

    def jittered(mapper):
        mapper.augmentations = T.AugmentationList([
            T.RandomFlip(horizontal=True),
            T.ResizeScale(min_scale=0.4, max_scale=2.5, target_height=64, target_width=64),
            T.FixedSizeCrop(crop_size=(64, 64), pad=pad),
        ])  # fmt: skip
        mapper.recompute_boxes = True
        return mapper

    check_equal(config(), 12 * [record], jittered)
    augmentations = jittered(ImageMapper(config(), True)).augmentations.augs
    assert are_of_size(augmentations) == (not pad)


def test_augmentations_that_need_pixels_get_them(record):
    def with_contrast(mapper):
        mapper.augmentations = T.AugmentationList([*mapper.augmentations.augs, T.RandomContrast(0.5, 1.5)])
        return mapper

    check_equal(config(), 3 * [record], with_contrast)


@pytest.mark.parametrize("polygon", [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]])
def test_polygons_that_detectron2_refuses_are_refused(record, polygon):
    record["annotations"][2]["segmentation"] = [polygon]
    for kind in (DatasetMapper, ImageMapper):
        with pytest.raises(ValueError):
            kind(config(), True)(record)


def test_usual_annotations_are_transformed_at_once(record):
    kept = [one for one in record["annotations"] if not one.get("iscrowd")]
    transforms = T.TransformList([T.ResizeTransform(60, 80, 90, 120), T.HFlipTransform(120)])
    assert len(to_instances(kept, transforms, (90, 120), "polygon")) == len(kept)
    crop = T.TransformList([T.CropTransform(1, 2, 30, 40)])
    assert to_instances(kept, crop, (40, 30), "polygon") is None


coordinates = st.one_of(st.floats(-20, 90), st.floats(-20, 90).map(lambda x: round(x, 1)), st.integers(-20, 90))
points = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=8)


@settings(deadline=None, max_examples=300)
@given(st.lists(points, min_size=1, max_size=3), st.integers(1, 70), st.integers(1, 70))
def test_bitmasks_are_those_of_detectron2(polygons, height, width):
    arrays = [np.array(list(itertools.chain.from_iterable(polygon)), np.float64) for polygon in polygons]
    found = instance_transforms._bitmasks([arrays], height, width).tensor
    assert torch.equal(found[0], torch.from_numpy(polygons_to_bitmask(arrays, height, width)))
