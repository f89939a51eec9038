"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), read by torchvision from the Python version's archive or folder."""

from __future__ import annotations

import os
import pickle
import tarfile
import tempfile
import zlib

import numpy as np

from ...utils.errors import InputError
from ...utils.text import first_line
from .image_set import Dataset, ImageSet, register_dataset

_UNREADABLE = (
    RuntimeError, OSError, pickle.UnpicklingError, EOFError, KeyError, ValueError, tarfile.TarError, zlib.error,
)  # fmt: skip


class _Cifar(Dataset):
    _name: str  # of torchvision's class

    def __init__(self, root: str, download: bool):
        self._root, self._download = root, download

    def train(self):
        return self._split(True)

    def test(self):
        return self._split(False)

    @property
    def _source(self):
        from torchvision import datasets  # takes a second to import, which other datasets don't need

        return getattr(datasets, self._name)

    def _split(self, train: bool) -> ImageSet:
        self._unpack()
        try:
            found = self._source(self._root, train=train, download=self._download)
        except _UNREADABLE as error:
            raise self._error(self._reason(error)) from error
        return ImageSet(found.data, np.array(found.targets, np.int64), tuple(found.classes))

    def _unpack(self) -> None:
        """Unpack the archive if there is no folder yet. torchvision checks the MD5 of each unpacked file it reads."""
        from torchvision.datasets.utils import check_integrity, extract_archive

        folder = os.path.join(self._root, self._source.base_folder)
        archive = os.path.join(self._root, self._source.filename)
        if os.path.isdir(folder) or not os.path.isfile(archive):
            return
        if not check_integrity(archive, self._source.tgz_md5):
            if self._download:  # torchvision checks the MD5, too, and downloads the archive again
                return
            raise self._error(f"{archive!r} is damaged: its MD5 differs. {self._remedy()}")
        try:
            with tempfile.TemporaryDirectory(dir=self._root) as partial:
                extract_archive(archive, partial)
                os.replace(os.path.join(partial, self._source.base_folder), folder)
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            if not os.path.isdir(folder):  # otherwise, another process was faster
                raise self._error(f"{archive!r} can't be unpacked: {error}.") from error

    def _reason(self, error: Exception) -> str:
        """Why the dataset can't be read, and what to do."""
        folder = os.path.join(self._root, self._source.base_folder)
        if self._download:
            return f"the download failed ({first_line(error)}). {self._remedy()}"
        if not os.path.isdir(folder):
            return f"it has no {self._source.filename}. {self._remedy()}"
        if os.path.isfile(os.path.join(self._root, self._source.filename)):
            return f"{folder!r} is damaged or incomplete; delete it, and it is unpacked again from the archive."
        return f"{folder!r} is damaged or incomplete; delete it. {self._remedy()}"

    def _error(self, message: str) -> InputError:
        return InputError(f"DATASET.{self._name}.ROOT {self._root!r}: {message}")

    def _remedy(self) -> str:
        source = self._source
        other = "" if self._download else f", or set DATASET.{self._name}.DOWNLOAD to True"
        return f"Put {source.filename} from {source.url} there{other}."


@register_dataset("cifar10")
class Cifar10(_Cifar):
    """
    60,000 images of 32 x 32 pixels in 10 classes.

    Files are read only if their MD5 is that of the original, so no code of other origin can run.

    Args:
        root: folder with ``cifar-10-python.tar.gz``, or with ``cifar-10-batches-py`` unpacked from it.
        download: download the archive if it is missing or damaged.
    """

    _name = "CIFAR10"

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

    _name = "CIFAR100"

    def __init__(self, *, root: str = "datasets/cifar", download: bool = False):
        super().__init__(root, download)
