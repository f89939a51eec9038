import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from balanced_lvis.classification.data import build_dataset, dataset_names
from balanced_lvis.classification.data.fashion_mnist import read_idx
from balanced_lvis.classification.data.folder import _centre
from balanced_lvis.classification.data.in_memory import in_memory
from balanced_lvis.utils.errors import InputError
from tests.classification.made import write_cifar, write_fashion_mnist, write_folders, write_idx


def characters(cache="", **options):
    return build_dataset(
        "characters", **{"num_classes": 3, "train_per_class": 4, "test_per_class": 2, "cache": str(cache), **options}
    )


# ---------------------------------------------------------------------- characters


def test_characters_are_the_same_in_every_run_and_differ_between_splits_and_seeds():
    images = characters().train()
    assert images.images.shape == (12, 32, 32, 3) and images.images.dtype == np.uint8
    assert images.counts().tolist() == [4, 4, 4] and images.class_names[0] == "digit_zero"
    assert (characters().train().images == images.images).all()
    assert not (characters(seed=1).train().images == images.images).all()
    assert not (characters().test().images[:2] == images.images[:2]).all()
    assert len({image.tobytes() for image in images.images}) == 12


def test_more_images_and_classes_leave_the_first_ones_as_they_are():
    few = characters().train().images.reshape(3, 4, 32, 32, 3)
    more = characters(num_classes=5, train_per_class=6).train().images.reshape(5, 6, 32, 32, 3)
    # Fewer classes can have more typefaces each, but none of these three does.
    assert (more[:3, :4] == few).all()


def test_rendered_characters_are_kept_and_a_damaged_file_is_rendered_again(tmp_path, caplog):
    images = characters(tmp_path).train().images
    (path,) = tmp_path.iterdir()
    assert "3x4_train" in path.name
    changed = images.copy()
    changed[0] = 7
    np.savez(path.open("wb"), images=changed)
    assert (characters(tmp_path).train().images == changed).all()
    for damaged in (b"", path.read_bytes()[:100], b"no archive"):
        path.write_bytes(damaged)
        caplog.clear()
        assert (characters(tmp_path).train().images == images).all()
        assert "is damaged" in caplog.text and path.name in caplog.text
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_character_stands_out_from_its_background():
    spread = characters(num_classes=10).train().images.reshape(40, -1, 3).std(axis=1).max(axis=1)
    assert (spread > 20).all()


@pytest.mark.parametrize("options", [{"train_per_class": 0}, {"test_per_class": -1}, {"seed": -1}, {"num_classes": 0}])
def test_numbers_of_characters_out_of_range_are_errors(options):
    with pytest.raises(InputError, match="is -?[01]"):
        characters(**options)


# ---------------------------------------------------------------------- Fashion-MNIST


@pytest.mark.parametrize("compress", [True, False])
def test_fashion_mnist_is_read_from_idx_files(tmp_path, compress):
    arrays = write_fashion_mnist(tmp_path, compress=compress)
    train = build_dataset("fashion_mnist", root=str(tmp_path)).train()
    assert train.images.shape == (20, 32, 32, 3) and train.num_classes == 10
    for channel in range(3):
        assert (train.images[:, 2:30, 2:30, channel] == arrays["train-images-idx3-ubyte"]).all()
    assert not train.images[:, :2].any() and not train.images[:, :, 30:].any()
    assert train.labels.tolist() == arrays["train-labels-idx1-ubyte"].tolist()
    assert len(build_dataset("fashion_mnist", root=str(tmp_path)).test()) == 20


def test_damaged_idx_files_are_errors(tmp_path):
    path = tmp_path / "x"
    write_idx(path, np.arange(6).reshape(2, 3), compress=False)
    assert read_idx(str(path), 2).tolist() == [[0, 1, 2], [3, 4, 5]]
    content = path.read_bytes()
    for damaged, message in (
        (content[:-1], "promises 6 values, but 5 follow"),
        (content + b"x", "promises 6 values, but 7 follow"),
        (content[:6], "not an IDX file"),
        (b"\x00\x00\x0d\x02" + content[4:], "not an IDX file"),
        (b"\x1f\x8bno gzip", "can't be read"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=message):
            read_idx(str(path), 2)
    with pytest.raises(InputError, match="dataset-fashion-mnist"):
        build_dataset("fashion_mnist", root=str(tmp_path)).train()


def test_empty_files_and_wrong_labels_of_fashion_mnist_are_errors(tmp_path):
    write_fashion_mnist(tmp_path, compress=False)
    dataset = build_dataset("fashion_mnist", root=str(tmp_path))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.full(20, 10), compress=False)
    with pytest.raises(InputError, match=r"train-labels-idx1-ubyte' has the label 10, above 9; restore"):
        dataset.train()
    write_idx(tmp_path / "t10k-images-idx3-ubyte", np.zeros((0, 28, 28), int), compress=False)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(0, int), compress=False)
    with pytest.raises(InputError, match=r"images of t10k have shape \(0, 28, 28\).*N above 0"):
        dataset.test()


def test_a_flipped_byte_of_a_compressed_idx_file_is_an_error(tmp_path):
    path = tmp_path / "x.gz"
    write_idx(path, np.random.default_rng(0).integers(0, 256, (40, 50)), compress=True)
    content = path.read_bytes()
    for at in (10, len(content) // 2, len(content) - 6):  # the type of the first block, the values, their checksum
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFE]) + content[at + 1 :])
        with pytest.raises(InputError, match="can't be read"):
            read_idx(str(path), 2)


# ---------------------------------------------------------------------- CIFAR


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_is_read_from_its_archive_and_from_the_folder(classes, tmp_path, monkeypatch):
    images, labels, archive, folder = write_cifar(tmp_path, monkeypatch, classes)
    dataset = build_dataset(f"cifar{classes}", root=str(tmp_path))
    for _ in range(2):  # unpacks, then finds the folder
        train = dataset.train()
        assert (train.images == images).all() and (train.labels == labels).all()
        assert train.class_names == tuple(f"class_{i}" for i in range(classes))
        archive.unlink(missing_ok=True)
    assert len(dataset.test()) == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name, "source"]


def test_cifar_files_whose_md5_differs_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, _, archive, folder = write_cifar(tmp_path, monkeypatch)
    dataset = build_dataset("cifar10", root=str(tmp_path))
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="is damaged: its MD5 differs"):
        dataset.train()
    assert not folder.exists()
    archive.write_bytes(whole)
    dataset.train()
    harmful = b"cos\nsystem\n(S'touch hacked'\ntR."
    (folder / "data_batch_3").write_bytes(harmful)
    with pytest.raises(InputError, match="batches-py' is damaged or incomplete; delete it, and it is unpacked"):
        dataset.train()
    archive.unlink()
    with pytest.raises(InputError, match=r"delete it. Put cifar-10-python.tar.gz .*, or set DATASET.CIFAR10.DOWNLOAD"):
        dataset.train()
    assert not (tmp_path / "hacked").exists()
    pickle.loads(harmful)  # the file would have done it
    assert (tmp_path / "hacked").exists()


def replace_download(monkeypatch, function):
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, **options: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", function)


def test_with_download_a_damaged_archive_is_downloaded_again(tmp_path, monkeypatch):
    images, _, archive, _ = write_cifar(tmp_path, monkeypatch)
    whole = archive.read_bytes()
    fetched = []

    def download(url, path, *rest):
        fetched.append(url)
        Path(path).write_bytes(whole)

    replace_download(monkeypatch, download)
    archive.write_bytes(whole[:-1])
    dataset = build_dataset("cifar10", root=str(tmp_path), download=True)
    assert (dataset.train().images == images).all() and len(fetched) == 1
    dataset.test()
    assert len(fetched) == 1


def test_a_failed_download_names_the_archive(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("no network")

    replace_download(monkeypatch, fail)
    with pytest.raises(InputError, match=r"the download failed \(no network\). Put cifar-10-python.tar.gz .* there\.$"):
        build_dataset("cifar10", root=str(tmp_path), download=True).train()


def test_an_archive_that_cannot_be_unpacked_is_an_error(tmp_path, monkeypatch):
    _, _, archive, _ = write_cifar(tmp_path, monkeypatch)

    def fail(*arguments, **options):
        raise PermissionError("read-only")

    monkeypatch.setattr("tempfile.mkdtemp", fail)
    with pytest.raises(InputError, match=rf"{archive.name}' can't be unpacked: read-only"):
        build_dataset("cifar10", root=str(tmp_path)).train()


def test_missing_cifar_is_an_error_that_names_the_archive_and_nothing_is_downloaded(tmp_path):
    with pytest.raises(InputError, match=r"it has no cifar-100-python.tar.gz. Put .* from https://.* there, or set"):
        build_dataset("cifar100", root=str(tmp_path / "none")).train()


# ---------------------------------------------------------------------- folders


def test_folders_of_classes_are_read_in_sorted_order_and_cropped_to_a_square(tmp_path):
    write_folders(tmp_path, {"cat": 3, "bird": 1})
    dataset = build_dataset("folder", root=str(tmp_path), size=16)
    train = dataset.train()
    assert train.class_names == ("bird", "cat") and train.counts().tolist() == [1, 3]
    assert train.images[0].shape == (16, 16, 3) and tuple(train.images[0][3, 3]) == (50, 100, 0)
    chosen = train.subset(np.array([3, 1]))
    assert [chosen.images[i][0, 0, 2] for i in range(2)] == [2, 0] and chosen.labels.tolist() == [1, 1]
    assert len(dataset.test()) == 2


def test_problems_of_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="has no folder 'train'"):
        build_dataset("folder", root=str(tmp_path)).train()
    write_folders(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "wolf")
    dataset = build_dataset("folder", root=str(tmp_path))
    with pytest.raises(InputError, match="test and train have different classes, such as 'dog'"):
        dataset.test()
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cat/0.png is not an image in .* Remove or replace it.$"):
        dataset.train().images[0]
    (tmp_path / "train" / "cat" / "0.png").unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "train" / "cat" / "0.png")
        with pytest.raises(InputError, match="is a named pipe|is a FIFO"):
            dataset.train().images[0]
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(InputError, match="empty' has no images; add some"):
        dataset.train()
    with pytest.raises(InputError, match=r"DATASET.FOLDER.ROOT is empty; set it to the folder of your images"):
        build_dataset("folder").train()


def decoded(folder, name, image, **options) -> np.ndarray:
    """An image as the dataset reads it, with the longer side cropped."""
    for split in ("train", "test"):
        (folder / split / "class").mkdir(parents=True, exist_ok=True)
        image.save(folder / split / "class" / name, **options)
    return build_dataset("folder", root=str(folder), size=min(image.size)).train().images[0]


def test_images_of_every_kind_are_read_as_a_viewer_shows_them(tmp_path):
    wide = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    found = decoded(tmp_path / "wide", "x.png", Image.fromarray(wide))
    assert abs(found[..., 0] - wide / 257).max() <= 0.5

    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right side
    found = decoded(tmp_path / "exif", "x.png", Image.fromarray(halves), exif=exif)
    assert (found == halves.transpose(1, 0, 2)[:, ::-1]).all()

    transparent = np.zeros((8, 8, 4), np.uint8)
    transparent[2:4, 2:4] = 255, 0, 0, 255
    found = decoded(tmp_path / "alpha", "x.png", Image.fromarray(transparent))
    assert (found[0, 0] == 255).all() and found[2, 2].tolist() == [255, 0, 0]

    with pytest.raises(InputError, match=r"x.tif has floating-point grey values, .*; save it with 8 or 16 bits"):
        decoded(tmp_path / "float", "x.tif", Image.fromarray(np.zeros((8, 8), np.float32)))


def test_the_central_square_is_that_of_the_resized_image():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 70, 3)).astype(np.uint8))
    whole = image.resize((16, 27), Image.Resampling.BILINEAR).crop((0, 5, 16, 21))
    difference = np.asarray(_centre(image, 16)).astype(int) - np.asarray(whole)
    assert abs(difference).max() <= 1  # Pillow rounds the coordinates of a box to single precision


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_every_image_of_a_class_is_found_once_and_what_is_left_out_is_reported_once(tmp_path, caplog):
    write_folders(tmp_path, {"cat": 2, "dog": 1})
    cat = tmp_path / "train" / "cat"
    (cat / "nested").mkdir()
    (cat / "0.png").rename(cat / "nested" / "0.png")
    for name, target in (("loop", cat), ("nested/up", tmp_path / "train"), ("again.png", cat / "nested" / "0.png")):
        os.symlink(target, cat / name)
    for name in ("._1.png", "notes.txt"):
        (cat / name).write_bytes(b"")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    dataset = build_dataset("folder", root=str(tmp_path))
    for _ in range(2):
        train = dataset.train()
        assert train.class_names == ("cat", "dog") and train.counts().tolist() == [2, 1]
    (repeated, others) = (record.getMessage() for record in caplog.records)
    assert ": 3, such as" in repeated and "train/cat/" in repeated
    assert ": 1, such as" in others and others.endswith("train/cat/notes.txt")


def test_images_are_decoded_once_if_they_fit_into_memory(tmp_path, monkeypatch, caplog):
    write_folders(tmp_path, {"cat": 20, "dog": 1})
    dataset = build_dataset("folder", root=str(tmp_path), size=8)
    sets = dataset.train().subset(np.array([20, 3, 5])), dataset.test()
    train, test = in_memory(*sets)
    assert train.images.tolist() == [sets[0].images[i].tolist() for i in range(3)] and len(test.images) == 2
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("balanced_lvis.classification.data.in_memory.MOST_BYTES", 5 * 8 * 8 * 3 - 1)
    assert in_memory(*sets) == sets and "5 images are decoded at each use" in caplog.text


def test_a_decompression_bomb_is_an_error(tmp_path, monkeypatch):
    write_folders(tmp_path, {"cat": 1})
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)  # the limit for attacks is twice that
    with pytest.raises(InputError, match=r"cat/0.png can't be read: .*bomb"):
        build_dataset("folder", root=str(tmp_path)).train().images[0]


def test_unknown_names_and_options_are_errors():
    assert dataset_names() == ["characters", "cifar10", "cifar100", "fashion_mnist", "folder"]
    with pytest.raises(InputError, match="Unknown dataset 'cifar'"):
        build_dataset("cifar")
    with pytest.raises(InputError, match="no option 'size'"):
        build_dataset("cifar10", size=3)
    for size in (4, 100_000_000):
        with pytest.raises(InputError, match=f"SIZE is {size}; choose 8 to 4096 pixels"):
            build_dataset("folder", size=size)
