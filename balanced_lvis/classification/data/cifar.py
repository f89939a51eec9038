"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), read by torchvision from the Python version's archive or folder."""

from __future__ import annotations

import os
import pickle
import tarfile
import tempfile
from urllib.error import URLError

import numpy as np
from torchvision import datasets
from torchvision.datasets.utils import check_integrity, extract_archive

from ...utils.errors import InputError
from .image_set import Dataset, ImageSet, register_dataset


class _Cifar(Dataset):
    _source: type[datasets.CIFAR10]
    _key: str  # of its options in a config

    def __init__(self, root: str, download: bool):
        self._root, self._download = root, download

    def train(self):
        return self._split(True)

    def test(self):
        return self._split(False)

    def _split(self, train: bool) -> ImageSet:
        self._unpack()
        try:
            found = self._source(self._root, train=train, download=self._download)
        except (RuntimeError, OSError, URLError, pickle.UnpicklingError, EOFError, KeyError) as error:
            raise InputError(f"{self._where()} {str(error).splitlines()[0]} {self._remedy()}") from error
        return ImageSet(found.data, np.array(found.targets, np.int64), tuple(found.classes))

    def _unpack(self) -> None:
        """Unpack the archive if there is no folder yet. torchvision checks the MD5 of each unpacked file it reads."""
        folder = os.path.join(self._root, self._source.base_folder)
        archive = os.path.join(self._root, self._source.filename)
        if os.path.isdir(folder) or not os.path.isfile(archive):
            return
        if not check_integrity(archive, self._source.tgz_md5):
            raise InputError(f"{self._where()} {archive!r} is damaged: its MD5 differs. {self._remedy()}")
        with tempfile.TemporaryDirectory(dir=self._root) as partial:
            try:
                extract_archive(archive, partial)
                os.replace(os.path.join(partial, self._source.base_folder), folder)
            except (tarfile.TarError, OSError) as error:
                if not os.path.isdir(folder):  # otherwise, another process was faster
                    raise InputError(f"{self._where()} {archive!r} can't be unpacked: {error}.") from error

    def _where(self) -> str:
        return f"DATASET.{self._key}.ROOT {self._root!r}:"

    def _remedy(self) -> str:
        return (
            f"Put {self._source.filename} from {self._source.url} there, or set DATASET.{self._key}.DOWNLOAD to True."
        )


@register_dataset("cifar10")
class Cifar10(_Cifar):
    """
    60,000 images of 32 x 32 pixels in 10 classes.

    Files are read only if their MD5 is that of the original, so no code of other origin can run.

    Args:
        root: folder with ``cifar-10-python.tar.gz``, or with ``cifar-10-batches-py`` unpacked from it.
        download: download the archive if it is missing.
    """

    _source, _key = datasets.CIFAR10, "CIFAR10"

    def __init__(self, *, root: str = "datasets/cifar", download: bool = False):
        super().__init__(root, download)


@register_dataset("cifar100")
class Cifar100(_Cifar):
    """
    60,000 images of 32 x 32 pixels in 100 classes.

    Args:
        root: folder with ``cifar-100-python.tar.gz``, or with ``cifar-100-python`` unpacked from it.
        download: as for :class:`Cifar10`.
    """

    _source, _key = datasets.CIFAR100, "CIFAR100"

    def __init__(self, *, root: str = "datasets/cifar", download: bool = False):
        super().__init__(root, download)
