"""Unusable training images are replaced and counted once each; too many are an error."""

from pathlib import Path

import pytest
import torch

from balanced_lvis.data.batches import MappedImages, Place
from balanced_lvis.data.config_datasets import resolve_num_classes
from balanced_lvis.data.images.broken_images import BrokenImages, attach
from balanced_lvis.data.images.decoding import ImageError
from balanced_lvis.data.loader import build_train_loader
from balanced_lvis.utils.errors import InputError
from tests.data.custom import made

RECORDS = [{"file_name": f"{i}.jpg", "number": i} for i in range(6)]


def mapper(bad):
    def mapped(record):
        if record["number"] in bad:
            raise ImageError(f"Image {record['file_name']} can't be read.")
        return {"number": record["number"], "random": float(torch.rand(()))}

    return mapped


def test_another_image_takes_the_place_of_a_broken_one_always_the_same():
    images = MappedImages(RECORDS, mapper({0, 1, 2, 3}), max_broken=4)
    first, again = images[Place(7, 3, 0)], images[Place(7, 3, 0)]
    assert first == again
    assert first["number"] in (4, 5)
    assert "Image 0.jpg can't be read." in first["broken_images"].values()
    assert images[Place(7, 3, 5)].keys() == {"number", "random"}


def test_errors_of_annotations_are_reasons_too():
    def mapped(record):
        raise ValueError("polygon of 2 points")

    record = MappedImages(RECORDS, mapped, max_broken=2)[Place(0, 0, 0)]
    assert set(record) == {"broken_images"}
    assert set(record["broken_images"].values()) == {"ValueError: polygon of 2 points"}


def test_no_memory_is_no_fault_of_an_image():
    def mapped(record):
        raise MemoryError

    with pytest.raises(MemoryError):
        MappedImages(RECORDS, mapped, max_broken=2)[Place(0, 0, 0)]


def test_a_data_set_of_broken_images_alone_is_an_error_whatever_the_limit():
    record = MappedImages(RECORDS, mapper(range(6)), max_broken=100)[Place(0, 0, 0)]
    with pytest.raises(InputError, match=r"6 training image\(s\) can't be used"):
        BrokenImages(100).take([record])


def test_an_image_is_counted_once_and_detached():
    broken = BrokenImages(2)
    batch = [attach({"a": 1}, {"0.jpg": "cut off"}), {"b": 2}, attach({"c": 3}, {"0.jpg": "cut off", "1.jpg": "empty"})]
    broken.take(batch)
    assert batch == [{"a": 1}, {"b": 2}, {"c": 3}]
    assert broken.found == {"0.jpg": "cut off", "1.jpg": "empty"}
    with pytest.raises(InputError, match=r"3 training image.*MAX_BROKEN = 2:\n  0.jpg: cut off\n  1.jpg"):
        broken.take([attach({"d": 1}, {"2.jpg": "grey"})])


def test_without_a_limit_the_first_one_is_named():
    record = MappedImages(RECORDS, mapper({3}))[Place(0, 0, 3)]
    with pytest.raises(InputError, match=r"3.jpg: Image 3.jpg can't be read"):
        BrokenImages().take([record])


@pytest.fixture
def data(tmp_path):
    """Two usable images with objects, and two unusable ones."""
    made.write_with_broken_images(tmp_path, "train")
    return tmp_path


def test_the_loader_gives_the_same_batches_with_any_number_of_workers(data):
    def batches(workers):
        cfg = made.config(data, test="", DATALOADER__NUM_WORKERS=workers, SOLVER__IMS_PER_BATCH=2)
        cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
        resolve_num_classes(cfg)
        loader = build_train_loader(cfg)
        loader.stream.sampler.seed = 3
        stream = iter(loader)
        found = [[record["image_id"] for record in next(stream)] for _ in range(8)]
        stream.close()
        return found, sorted(Path(name).name for name in loader.broken.found)

    found, broken = batches(2)
    assert (found, broken) == batches(0)
    assert broken == ["3.jpg", "4.jpg"]
    assert {image_id for batch in found for image_id in batch} == {10, 20}
