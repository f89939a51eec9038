"""Small datasets in the formats of the real ones, and configs for runs of seconds."""

import gzip
import hashlib
import pickle
import tarfile

import numpy as np
from PIL import Image

from balanced_lvis.classification import load_config


def characters_opts(folder, output, **overrides) -> list[str]:
    """Overrides for a run of seconds on four characters."""
    pairs = {
        "DATASET.CHARACTERS.NUM_CLASSES": 4,
        "DATASET.CHARACTERS.TRAIN_PER_CLASS": 20,
        "DATASET.CHARACTERS.TEST_PER_CLASS": 5,
        "DATASET.CHARACTERS.CACHE": folder,
        "DATASET.LONG_TAIL.IMBALANCE": 10.0,
        "MODEL.NETWORK.RESNET8.WIDTH": 4,
        "MODEL.DEVICE": "cpu",
        "SOLVER.MAX_ITER": 4,
        "SOLVER.IMS_PER_BATCH": 8,
        "SOLVER.BASE_LR": 0.1,
        "SOLVER.WARMUP_ITERS": 1,
        "OUTPUT_DIR": output,
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    return [str(word) for pair in pairs.items() for word in pair]


def characters_config(method, folder, output, **overrides):
    return load_config(f"classification/characters/{method}", characters_opts(folder, output, **overrides))


def write_idx(path, values: np.ndarray, compress: bool) -> None:
    """The IDX format as the page of MNIST describes it, written in plain loops."""
    content = bytearray([0, 0, 8, values.ndim])
    for size in values.shape:
        content += bytes([size >> 24 & 255, size >> 16 & 255, size >> 8 & 255, size & 255])
    for value in values.ravel().tolist():
        content.append(value)
    path.write_bytes(gzip.compress(bytes(content)) if compress else bytes(content))


def write_fashion_mnist(root, per_class: int = 2, compress: bool = True) -> dict[str, np.ndarray]:
    """The four files; returns the arrays."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "t10k"):
        arrays[f"{split}-images-idx3-ubyte"] = rng.integers(0, 256, (10 * per_class, 28, 28))
        arrays[f"{split}-labels-idx1-ubyte"] = np.arange(10 * per_class) % 10
    for name, values in arrays.items():
        write_idx(root / (f"{name}.gz" if compress else name), values, compress)
    return arrays


def write_cifar(root, monkeypatch, classes: int = 10, per_batch: int = 20):
    """
    The archive of CIFAR-10 or CIFAR-100 with few images. torchvision is given its MD5s, as it refuses all others.

    Returns:
        the training images (N, 32, 32, 3), their labels, the path of the archive, and that of the folder unpacked from
        it.
    """
    from torchvision import datasets

    source = getattr(datasets, f"CIFAR{classes}")
    key, meta_key = {10: ("labels", "label_names"), 100: ("fine_labels", "fine_label_names")}[classes]
    rng = np.random.default_rng(0)
    folder = root / "source" / source.base_folder
    folder.mkdir(parents=True)
    images, labels = [], []
    trained, tested = ([name for name, _ in files] for files in (source.train_list, source.test_list))
    for name in (*trained, *tested):
        data = rng.integers(0, 256, (per_batch, 3, 32, 32)).astype(np.uint8)
        of_batch = rng.integers(0, classes, per_batch).tolist()
        content = {"data": data.reshape(per_batch, -1), key: of_batch}
        if classes == 100:
            content["coarse_labels"] = [0] * per_batch  # must not be used
        (folder / name).write_bytes(pickle.dumps(content))
        if name in trained:
            images.append(data.transpose(0, 2, 3, 1))
            labels += of_batch
    meta = source.meta["filename"]
    (folder / meta).write_bytes(pickle.dumps({meta_key: [f"class_{i}" for i in range(classes)]}))
    archive = root / source.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, source.base_folder)
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(source, "train_list", [[name, md5[name]] for name in trained])
    monkeypatch.setattr(source, "test_list", [[name, md5[name]] for name in tested])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": md5[meta]})
    return np.concatenate(images), np.array(labels), archive, root / source.base_folder


def write_folders(root, counts: dict[str, int], size=(40, 50)) -> None:
    """``counts[name]`` training images of each class, and one test image, each in a colour of its class."""
    for number, (name, count) in enumerate(counts.items()):
        for split, images in (("train", count), ("test", 1)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(images):
                Image.new("RGB", size, (number * 50, 100, i)).save(folder / f"{i}.png")
