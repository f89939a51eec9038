"""
Class frequencies of a training set.

Shorthand used in all docstrings:

    K    number of foreground classes
    N    number of images that are trained on. By default, DATALOADER.FILTER_EMPTY_ANNOTATIONS leaves out images without
         objects: N is 99,388 of LVIS-1.0's 100,170.
    n_j  count of class j, in images or instances
    n    sum of n_j over the classes
    f_j  n_j / N with n_j in images: the share of training images that contain class j. These don't sum to 1.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..utils.errors import InputError
from ..utils.io import write_json
from ..utils.once import once
from ..utils.text import first_of
from .class_lists import ClassLists, HasClassLists
from .prior_file import prior_content, read_prior
from .sampled_counts import SampledCounts

logger = logging.getLogger(__name__)

# LVIS's own rule (Gupta et al., 2019): a class is rare up to 10 training images and common up to 100.
RARE_MAX_IMAGES = 10
COMMON_MAX_IMAGES = 100

# What N counts.
WITH_OBJECTS = "images with objects"
ALL = "all images"

_MOST = 2**53  # up to which float64 has every whole number


@dataclasses.dataclass(frozen=True, eq=False)
class ClassPrior:
    """
    How often each class occurs in a training set.

    Args:
        class_names: K names, in the order of the contiguous class indices 0..K-1.
        image_count: (K,) number of training images that contain each class.
        num_images: N, the number of images that are trained on.
        instance_count: (K,) number of annotated instances of each class, or None if unknown.
        counted: which images N counts, such as :data:`WITH_OBJECTS`.
        sampled_counts: class counts of the images that a sampler shows; if given, frequencies are computed from them.
            Groups and repeat factors are always those of the dataset.
        fractal_dimension: (K,) from :func:`~balanced_lvis.priors.fractal_dimension` of the box centres of each class,
            or None if unknown.

    Raises:
        InputError: if lengths differ, a count is not a whole number >= 0, or a class is in more images than there are.
    """

    class_names: tuple[str, ...]
    image_count: np.ndarray
    num_images: int
    instance_count: np.ndarray | None = None
    counted: str = ""
    sampled_counts: SampledCounts | None = None
    fractal_dimension: np.ndarray | None = None

    def __post_init__(self):
        object.__setattr__(self, "class_names", tuple(str(name) for name in self.class_names))
        if isinstance(self.num_images, bool) or not isinstance(self.num_images, (int, np.integer)):
            raise InputError(f"ClassPrior: num_images must be a whole number, not {self.num_images!r}.")
        self._set_counts("image_count", self.image_count)
        if self.instance_count is not None:
            self._set_counts("instance_count", self.instance_count)
        if not 1 <= self.num_images <= _MOST:
            raise InputError(f"ClassPrior: num_images is {self.num_images}; it must be from 1 to {_MOST}.")
        most = int(self.image_count.max())
        if most > self.num_images:
            name = self.class_names[int(self.image_count.argmax())]
            raise InputError(
                f"ClassPrior: image_count of {name!r} is {most}, more than num_images = {self.num_images}; "
                "num_images must count all images that are trained on."
            )
        if self.sampled_counts is not None and len(self.sampled_counts.image_count) != self.num_classes:
            raise InputError(
                f"ClassPrior: sampled_counts has {len(self.sampled_counts.image_count)} classes; it must have "
                f"{self.num_classes}, as class_names."
            )
        if self.fractal_dimension is not None:
            self._set_fractal_dimension(self.fractal_dimension)
        if np.any(self.image_count == 0):
            _report_zero_counts(tuple(n for n, c in zip(self.class_names, self.image_count) if c == 0))

    def _set_counts(self, field: str, values) -> None:
        try:
            array = np.asarray(values)
        except (ValueError, RecursionError):  # lists of different lengths, or a list that contains itself
            array = np.empty(0)
        real = np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)
        if not (array.ndim == 1 and array.size and real) or not np.all((array == np.floor(array)) & (array >= 0)):
            raise InputError(f"ClassPrior: {field} must be K whole numbers >= 0, not {values!r:.200}.")
        if np.any(array > _MOST):
            raise InputError(f"ClassPrior: {field} has {array.max()}; counts can be at most {_MOST}.")
        if len(array) != len(self.class_names):
            raise InputError(f"ClassPrior: {field} has {len(array)} entries for {len(self.class_names)} class names.")
        array = array.astype(np.int64)
        array.setflags(write=False)
        object.__setattr__(self, field, array)

    def _set_fractal_dimension(self, values) -> None:
        try:
            array = np.array(values, np.float64)
        except (TypeError, ValueError, OverflowError, RecursionError):
            array = np.empty(0)
        if array.shape != (self.num_classes,) or not np.all(np.isfinite(array) & (array > 0)):
            raise InputError(
                f"ClassPrior: fractal_dimension must be {self.num_classes} numbers above 0, one per class, not "
                f"{values!r:.200}."
            )
        array.setflags(write=False)
        object.__setattr__(self, "fractal_dimension", array)

    # ------------------------------------------------------------------ constructors

    @classmethod
    def from_dataset_dicts(
        cls,
        dataset_dicts: Sequence[Mapping] | HasClassLists,
        class_names: Iterable[str],
        filter_empty: bool = False,
    ) -> ClassPrior:
        """
        Count the classes of a dataset in Detectron2's standard format.

        Args:
            dataset_dicts: one dict per image, whose ``annotations`` have a contiguous ``category_id``. Crowd regions
                (``iscrowd``) don't count, as they are not trained on. If the dataset implements
                :class:`~balanced_lvis.priors.HasClassLists`, no records are built.
            class_names: the K class names, in the order of ``category_id``.
            filter_empty: N counts images with objects only, as ``DATALOADER.FILTER_EMPTY_ANNOTATIONS`` leaves out the
                others. Crowd regions are not objects. False: N counts every image.

        Raises:
            InputError: if no image counts or a ``category_id`` is outside 0..K-1.
        """
        class_names = tuple(class_names)
        lists = ClassLists.of(dataset_dicts)
        num_images = int(np.count_nonzero(np.diff(lists.first))) if filter_empty else lists.num_images
        if not num_images:
            which = " with objects" if filter_empty and lists.num_images else ""
            raise InputError(
                f"ClassPrior: the dataset has no images{which} to count classes in; check its annotations."
            )
        image_count = np.array([len(images) for images in lists.images_by_class(len(class_names))])
        instance_count = np.bincount(lists.classes, minlength=len(class_names))
        return cls(class_names, image_count, num_images, instance_count, WITH_OBJECTS if filter_empty else ALL)

    @classmethod
    def load(cls, path: str | os.PathLike) -> ClassPrior:
        """
        Read a file that :meth:`save` wrote.

        Raises:
            InputError: if the file is missing, is not valid JSON, or is not a class prior.
        """
        prior = cls(**read_prior(path))
        if not prior.counted:
            _report_unknown_images(os.fspath(path), prior.num_images)
        return prior

    def save(self, path: str | os.PathLike) -> None:
        """Write a JSON file, for :meth:`load`."""
        write_json(path, self.to_dict(), indent=1)

    def to_dict(self) -> dict:
        """The content of the file that :meth:`save` writes. :meth:`load` ignores additional entries."""
        return prior_content(self)

    @classmethod
    def merge(cls, priors: Sequence[ClassPrior]) -> ClassPrior:
        """
        The prior of several training sets of the same classes, used together.

        It has no fractal dimension, which follows from the boxes of all sets, not from the dimension in each.

        Raises:
            InputError: for different classes, or for priors with sampled counts: a sampler repeats images by the counts
                of all training sets together, so the sampled counts of each can't be added.
        """
        first = priors[0]
        counted = " and ".join(dict.fromkeys(p.counted for p in priors if p.counted))
        for other in priors[1:]:
            other.check_classes(first.class_names, "the first training set")
        if any(p.sampled_counts for p in priors):
            raise InputError("ClassPrior.merge: sampled counts can't be added; merge priors of datasets without them.")
        instance_counts = [p.instance_count for p in priors if p.instance_count is not None]
        return cls(
            first.class_names,
            np.sum([p.image_count for p in priors], axis=0),
            sum(p.num_images for p in priors),
            np.sum(instance_counts, axis=0) if len(instance_counts) == len(priors) else None,
            counted,
        )

    # ------------------------------------------------------------------ frequencies

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def groups(self) -> np.ndarray:
        """(K,) LVIS's groups by training image count: "r" up to 10, "c" up to 100, "f" above."""
        return np.where(
            self.image_count <= RARE_MAX_IMAGES, "r", np.where(self.image_count <= COMMON_MAX_IMAGES, "c", "f")
        )

    def image_frequency(self) -> np.ndarray:
        """
        (K,) float64, f_j = image_count_j / N, inside (0, 1); of the sampled images if :attr:`sampled_counts` is given.

        A class in no image counts as half an image, and a class in every image as half an image fewer, so that log-odds
        are finite. All other values are exact.
        """
        counts = _half_for_none(self._basis.image_count)
        return np.minimum(counts, self._basis.num_images - 0.5) / self._basis.num_images

    @property
    def _basis(self) -> ClassPrior | SampledCounts:
        """The counts that frequencies are computed from: of the sampled images if known, else of the dataset."""
        return self.sampled_counts or self

    @property
    def frequency_images(self) -> float:
        """N in :meth:`image_frequency`: the number of training images, or of images shown per epoch."""
        return self._basis.num_images

    def share(self, count: str = "image") -> np.ndarray:
        """
        (K,) float64, n_j / n, which sums to 1 over the classes. A count of 0 is taken as 0.5.

        Args:
            count: "image" or "instance", what n_j counts.

        Raises:
            InputError: for another ``count``, or for "instance" if instance counts are unknown.
        """
        counts = self.class_counts(count)
        return counts / counts.sum()

    def class_counts(self, count: str = "image") -> np.ndarray:
        """
        (K,) float64, n_j; of the sampled images if :attr:`sampled_counts` is given. A count of 0 is taken as 0.5.

        Args:
            count: "image" or "instance", what n_j counts.

        Raises:
            InputError: as for :meth:`share`.
        """
        self._counts(count)  # the same errors with and without sampled counts
        return _half_for_none(np.asarray(getattr(self._basis, f"{count}_count"), dtype=np.float64))

    def _counts(self, count: str) -> np.ndarray:
        check_count(count)
        if count == "image":
            return self.image_count
        if self.instance_count is None:
            raise InputError(
                "count is 'instance', but this class prior has image counts only; use 'image', or a prior "
                "that was counted in the annotations."
            )
        return self.instance_count

    def check_classes(self, class_names: Iterable[str], owner: str) -> None:
        """
        Raises:
            InputError: if the classes of this prior, or their order, differ from ``class_names``.
        """
        names = tuple(class_names)
        if names == self.class_names:
            return
        if len(names) != self.num_classes:
            difference = f"it has {self.num_classes} classes, {owner} has {len(names)}"
        else:
            index = next(i for i, (a, b) in enumerate(zip(self.class_names, names)) if a != b)
            difference = f"its class {index} is {self.class_names[index]!r}, in {owner} it is {names[index]!r}"
        raise InputError(
            f"The class prior doesn't belong to {owner}: {difference}. Use the prior of the same training set, "
            "with the classes in the same order."
        )


def check_count(count: str) -> str:
    """
    Args:
        count: what class counts count, "image" or "instance".

    Returns:
        ``count``.

    Raises:
        InputError: for anything else.
    """
    if count not in ("image", "instance"):
        raise InputError(f"count is {count!r}; valid: 'image', 'instance'.")
    return count


def _half_for_none(counts: np.ndarray) -> np.ndarray:
    return np.where(counts > 0, counts, 0.5)


def frequency_group(image_count: int) -> str:
    """LVIS's group of a category by its number of training images: "r" up to 10, "c" up to 100, "f" above."""
    return "r" if image_count <= RARE_MAX_IMAGES else "c" if image_count <= COMMON_MAX_IMAGES else "f"


@once
def _report_unknown_images(path: str, num_images: int) -> None:
    logger.warning(
        "Class prior %s doesn't state which images its num_images (%s) counts. Older versions counted all images, "
        "including those without objects, which training leaves out by default. Before training with it, write it "
        "again with `balanced-lvis analyze-dataset --json`.",
        path,
        f"{num_images:,}",
    )


@once
def _report_zero_counts(names: tuple[str, ...]) -> None:
    logger.warning(
        "%d class(es) occur in no training image: %s. Each is counted as half an image.",
        len(names), first_of(names, 10),
    )  # fmt: skip
