"""Images of every kind are read as a viewer shows them, and broken ones are named."""

import copy
import os
import subprocess

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image as stock_read_image
from PIL import Image, ImageFile

from balanced_lvis.data.dataset_records import load_records
from balanced_lvis.data.images.decoding import ImageError, image_formats, image_suffixes
from balanced_lvis.data.images.image_files import read_image
from balanced_lvis.data.mapper import ImageMapper
from balanced_lvis.data.validation.image_checks import image_problem
from balanced_lvis.utils.errors import InputError
from tests.data.turned import save_turned

HEIGHT, WIDTH = 12, 20


def colours(seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def greys(dtype, top) -> np.ndarray:
    ramp = np.linspace(0, top, HEIGHT * WIDTH).round().astype(dtype)
    return ramp.reshape(HEIGHT, WIDTH)


def png(tmp_path, pixels):
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L", "YUV-BT.601"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK"])
def test_where_detectron2_reads_rightly_pixels_are_the_same(tmp_path, mode, image_format):
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    Image.fromarray(colours()).convert(mode).save(path)
    expected = stock_read_image(str(path), image_format)
    found = read_image(path, image_format)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_greyscale_pictures_get_three_equal_channels(tmp_path):
    pixels = greys(np.uint8, 255)
    found = read_image(png(tmp_path, pixels))
    assert found.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(found, np.repeat(pixels[..., None], 3, 2))


def test_cmyk_pictures_keep_their_colours(tmp_path):
    path = tmp_path / "picture.tif"
    Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0)).save(path)  # magenta and yellow ink: red
    assert read_image(path, "RGB")[0, 0].tolist() == [255, 0, 0]


def test_palettes_are_looked_up(tmp_path):
    image = Image.new("P", (WIDTH, HEIGHT), 1)
    image.putpalette([50, 60, 70, 80, 90, 100])
    image.save(tmp_path / "picture.png")
    assert (read_image(tmp_path / "picture.png", "RGB") == (80, 90, 100)).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_greys_of_16_bits_are_scaled_and_not_cut_off(tmp_path, suffix):
    pixels = greys(np.uint16, 65535)
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(pixels).save(path)
    found = read_image(path)
    np.testing.assert_array_equal(found[..., 0], np.round(pixels / 257))
    assert (stock_read_image(str(path), "BGR") != found).any()  # which clips


def test_greys_of_32_bits_that_need_no_more_than_16_are_scaled_alike(tmp_path):
    pixels = greys(np.int32, 65535)
    path = tmp_path / "picture.tif"
    Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(read_image(path)[..., 0], np.round(pixels / 257))


@pytest.mark.parametrize(("dtype", "words"), [(np.int32, "more than 16 bits"), (np.float32, "floating-point")])
def test_greys_of_unknown_range_are_refused(tmp_path, dtype, words):
    path = tmp_path / "picture.tif"
    Image.fromarray(greys(dtype, 100_000)).save(path)
    with pytest.raises(ImageError, match=f"picture.tif has .*{words}"):
        read_image(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white_and_the_rest_as_it_is(tmp_path, mode):
    image = Image.new("RGBA", (WIDTH, HEIGHT), (10, 10, 10, 255))
    image.paste((99, 99, 99, 0), (0, 0, 5, 5))
    path = tmp_path / "picture.png"
    image.convert(mode).save(path)
    found = read_image(path)
    assert (found[:5, :5] == 255).all()
    assert (found[6:, 6:] == 10).all()


def test_a_transparent_colour_of_a_palette_is_white(tmp_path):
    image = Image.new("P", (WIDTH, HEIGHT), 1)
    image.putpalette([50, 60, 70, 80, 90, 100])
    image.paste(0, (0, 0, 5, 5))
    image.save(tmp_path / "picture.png", transparency=0)
    found = read_image(tmp_path / "picture.png", "RGB")
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[-1, -1].tolist() == [80, 90, 100]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_exif_says(tmp_path, orientation):
    path = tmp_path / "picture.png"
    save_turned(path, Image.fromarray(colours()), orientation)
    found = read_image(path)
    np.testing.assert_array_equal(found, stock_read_image(str(path), "BGR"))
    assert found.shape[:2] == ((WIDTH, HEIGHT) if orientation > 4 else (HEIGHT, WIDTH))


def test_a_picture_that_was_annotated_unturned_stays_so(tmp_path):
    path = tmp_path / "picture.png"
    save_turned(path, Image.fromarray(colours()), 6)
    np.testing.assert_array_equal(read_image(path, "RGB", (WIDTH, HEIGHT)), colours())
    assert read_image(path, "RGB", (HEIGHT, WIDTH)).shape == (WIDTH, HEIGHT, 3)


def test_another_size_than_annotated_is_told(tmp_path):
    with pytest.raises(ImageError, match=r"picture\.png is 20 x 12 pixels, but annotated as 21 x 12"):
        read_image(png(tmp_path, colours()), "BGR", (21, 12))


def test_damaged_exif_is_as_none(tmp_path):
    path = tmp_path / "picture.jpg"
    Image.fromarray(colours()).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff\xff\0\0")
    assert read_image(path).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("kind", ["empty", "text", "cut off", "folder", "missing", "bomb"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_picture_that_cannot_be_read_is_named(tmp_path, kind, suffix, monkeypatch):
    path = tmp_path / f"broken.{suffix}"
    Image.fromarray(colours()).save(path)
    if kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "missing":
        path.unlink()
    elif kind == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    else:
        content = path.read_bytes()
        path.write_bytes({"empty": b"", "text": b"404 not found", "cut off": content[: len(content) // 2]}[kind])
    with pytest.raises(InputError, match=f"Image .*broken.{suffix} "):
        read_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "gif", "bmp"])
def test_no_damage_raises_anything_else(tmp_path, suffix):
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(colours()).save(path)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 4):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(1, len(content) + 1)] if rng.random() < 0.3 else damaged)
        try:
            read_image(path)
        except ImageError:
            refused += 1
    assert refused


@pytest.mark.parametrize("is_train", [True, False])
def test_records_are_those_of_detectron2s_mapper(tiny_cfg, is_train):
    tiny_cfg.INPUT.CROP.ENABLED = True
    record = load_records("rendered_train")[0]
    before = copy.deepcopy(record)
    made = []
    for mapper in (ImageMapper, DatasetMapper):
        np.random.seed(7)
        made.append(mapper(tiny_cfg, is_train)(record))
    ours, stock = made
    assert record == before
    assert ours.keys() == stock.keys()
    assert torch.equal(ours["image"], stock["image"])
    if is_train:
        assert torch.equal(ours["instances"].gt_boxes.tensor, stock["instances"].gt_boxes.tensor)
        assert torch.equal(ours["instances"].gt_classes, stock["instances"].gt_classes)


# ------------------------------------------------------------------ what is opened at all


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 12\n%%EndComments\n%%EOF\n"
WMF = b"\xd7\xcd\xc6\x9a\0\0" + np.array([0, 0, 20, 12, 72], "<i2").tobytes() + bytes(6) + b"\1\0\x09\0" + bytes(64)
HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(64)


@pytest.mark.parametrize("content", [EPS, WMF, HDF5, b"GRIB\0\0\0\1" + bytes(64), b"%PDF-1.4\n%%EOF\n"])
@pytest.mark.parametrize("suffix", ["jpg", "eps"])
def test_a_format_that_pillow_does_not_decode_itself_is_not_opened(tmp_path, content, suffix, monkeypatch):
    def started(*arguments, **options):
        raise AssertionError("a program is started")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(os, "system", started)
    path = tmp_path / f"picture.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"picture.{suffix} is not an image in a raster format"):
        read_image(path)
    assert image_problem(str(path), (20, 12))[0] == "image_unreadable"


def test_formats_are_those_without_a_program_a_plugin_or_a_stub():
    Image.init()
    assert {"JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"} <= set(image_formats())
    assert not {"EPS", "PDF", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "IPTC", "FITS"} & set(image_formats())
    assert {".jpg", ".png", ".tif", ".webp", ".mpo"} <= image_suffixes()
    assert not {".eps", ".ps", ".pdf", ".wmf", ".emf", ".h5", ".mpg", ".txt"} & image_suffixes()


@pytest.mark.parametrize("name", ["TGA", "PCX", "SGI", "JPEG2000", "WEBP"])
def test_other_formats_that_pillow_decodes_are_read(tmp_path, name):
    path = tmp_path / "picture"
    Image.fromarray(colours()).save(path, "PNG")
    Image.open(path).save(path, name, **({"lossless": True} if name == "WEBP" else {}))
    np.testing.assert_array_equal(read_image(path, "RGB"), colours())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs on this system")
def test_a_fifo_or_a_device_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "picture.jpg")
    with pytest.raises(ImageError, match=r"Image .*picture\.jpg is a FIFO; only regular files can be read"):
        read_image(tmp_path / "picture.jpg")
    with pytest.raises(ImageError, match="Image /dev/zero is a device"):
        read_image("/dev/zero")
    assert image_problem("/dev/zero", (20, 12))[0] == "image_unreadable"


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_an_image_of_another_size_is_not_decoded(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(colours()).save(path)

    def decoded(self):
        raise AssertionError("the image is decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    with pytest.raises(ImageError, match=r"is 20 x 12 pixels, but annotated as 4000 x 12; correct one of them"):
        read_image(path, "RGB", (4000, 12))
    assert image_problem(str(path), (20, 13))[0] == "image_size_differs"


def test_an_image_of_the_same_sides_is_refused_where_exif_does_not_turn_it(tmp_path):
    with pytest.raises(ImageError, match="is 20 x 12 pixels, but annotated as 12 x 20"):
        read_image(png(tmp_path, colours()), "RGB", (HEIGHT, WIDTH))


def test_a_message_about_an_image_is_one_line_whatever_its_name(tmp_path):
    path = tmp_path / "a\n[11-25 12:00:00] forged\x1b[31m.jpg"
    path.write_bytes(b"text")
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert "a\\n[11-25 12:00:00] forged\\x1b[31m.jpg is not an image" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize(("height", "width"), [(1, 9000), (9000, 1)])
def test_the_shorter_side_of_a_very_long_image_keeps_a_pixel(tiny_cfg, tmp_path, is_train, height, width):
    path = png(tmp_path, np.zeros((height, width, 3), np.uint8))
    record = {"file_name": str(path), "height": height, "width": width, "annotations": []}
    tiny_cfg.INPUT.MIN_SIZE_TRAIN, tiny_cfg.INPUT.MAX_SIZE_TRAIN = (96,), 320
    tiny_cfg.INPUT.MIN_SIZE_TEST, tiny_cfg.INPUT.MAX_SIZE_TEST = 96, 320
    image = ImageMapper(tiny_cfg, is_train)(record)["image"]
    assert sorted(image.shape) == [1, 3, 320]


@pytest.mark.parametrize(("height", "width"), [(900, 3), (3, 900)])
def test_large_scale_jittering_leaves_a_pixel_of_a_very_long_image(tmp_path, height, width):
    path = png(tmp_path, np.zeros((height, width, 3), np.uint8))
    record = {"file_name": str(path), "height": height, "width": width, "annotations": []}
    augmentations = [T.ResizeScale(0.1, 0.1, 1024, 1024), T.FixedSizeCrop((1024, 1024), pad=False)]
    mapper = ImageMapper(is_train=True, augmentations=augmentations, image_format="RGB")
    assert sorted(mapper(record)["image"].shape) == [1, 3, 102]
