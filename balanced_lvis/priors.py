"""
Class frequencies of a training set, and the offsets that Balanced Activation takes from them.

Shorthand used in all docstrings:

    K    number of foreground classes
    N    number of images that are trained on. Images without objects are not, unless a config says so:
         DATALOADER.FILTER_EMPTY_ANNOTATIONS leaves them out. 99,388 of LVIS-1.0's 100,170.
    n_j  count of class j (images or instances, as said)
    n    sum of n_j over the classes
    f_j  n_j / N with n_j counted in images: the share of training images that hold class j. It doesn't sum to 1.

Nothing in this file needs Detectron2 or torch.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .class_lists import ClassLists, HasClassLists
from .prior_file import prior_content, read_prior
from .showings import Showings
from .utils.errors import InputError
from .utils.io import write_json
from .utils.text import first_of

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
        image_count: (K,) number of training images that hold each class.
        num_images: N, the number of images that are trained on.
        instance_count: (K,) number of annotated instances of each class, or None where they are not known.
        counted: which images N counts, in words.
        showings: counts of what a sampler shows, which frequencies and offsets then come from. Groups and repeat
            factors stay those of the dataset.

    Raises:
        InputError: if lengths differ, a count is negative or not whole, or a class is in more images than there are.
    """

    class_names: tuple[str, ...]
    image_count: np.ndarray
    num_images: int
    instance_count: np.ndarray | None = None
    counted: str = ""
    showings: Showings | None = None

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
        if self.showings is not None and len(self.showings.image_count) != self.num_classes:
            raise InputError(
                f"ClassPrior: showings have {len(self.showings.image_count)} classes, not {self.num_classes}."
            )
        if np.any(self.image_count == 0):
            _report_zero_counts(tuple(n for n, c in zip(self.class_names, self.image_count) if c == 0))

    def _set_counts(self, field: str, values) -> None:
        try:
            array = np.asarray(values)
        except (ValueError, RecursionError):  # lists of several lengths, or in each other without end
            array = np.empty(0)
        real = np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)
        if not (array.ndim == 1 and array.size and real) or not np.all((array == np.floor(array)) & (array >= 0)):
            raise InputError(f"ClassPrior: {field} must be K whole numbers >= 0, not {values!r:.200}.")
        if np.any(array > _MOST):
            raise InputError(f"ClassPrior: {field} has {array.max()}; no count can be more than {_MOST}.")
        if len(array) != len(self.class_names):
            raise InputError(f"ClassPrior: {field} has {len(array)} entries for {len(self.class_names)} class names.")
        array = array.astype(np.int64)
        array.setflags(write=False)
        object.__setattr__(self, field, array)

    # ------------------------------------------------------------------ making one

    @classmethod
    def from_dataset_dicts(
        cls,
        dataset_dicts: Sequence[Mapping] | HasClassLists,
        class_names: Iterable[str],
        filter_empty: bool = False,
    ) -> ClassPrior:
        """
        Count the classes of a data set in Detectron2's standard format.

        Args:
            dataset_dicts: one dict per image, whose ``annotations`` carry a contiguous ``category_id``. Crowd
                regions (``iscrowd``) don't count, as they are not trained on. A dataset that
                :class:`~balanced_lvis.class_lists.HasClassLists` is not asked for its records.
            class_names: the K class names, in the order of ``category_id``.
            filter_empty: N counts the images that hold an object only, as ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``
                shows no others. An image of crowd regions alone holds none. False: N counts every image.

        Raises:
            InputError: if no image counts or a ``category_id`` is outside 0..K-1.
        """
        class_names = tuple(class_names)
        lists = ClassLists.of(dataset_dicts)
        num_images = int(np.count_nonzero(np.diff(lists.first))) if filter_empty else lists.num_images
        if not num_images:
            held = " with objects" if filter_empty and lists.num_images else ""
            raise InputError(f"ClassPrior: the dataset has no images{held} to count classes in.")
        image_count = np.array([len(images) for images in lists.images_by_class(len(class_names))])
        instance_count = np.bincount(lists.classes, minlength=len(class_names))
        return cls(class_names, image_count, num_images, instance_count, WITH_OBJECTS if filter_empty else ALL)

    @classmethod
    def load(cls, path: str | os.PathLike) -> ClassPrior:
        """
        Read a prior that :meth:`save` wrote.

        Raises:
            InputError: if the file is missing, is no JSON, or is no class prior.
        """
        prior = cls(**read_prior(path))
        if not prior.counted:
            _report_unknown_images(os.fspath(path), prior.num_images)
        return prior

    def save(self, path: str | os.PathLike) -> None:
        """Write the prior to a JSON file that people can read and :meth:`load` takes back."""
        write_json(path, self.to_dict(), indent=1)

    def to_dict(self) -> dict:
        """What :meth:`save` writes. :meth:`load` doesn't mind more entries, of the whole or of a class."""
        return prior_content(self)

    @classmethod
    def merge(cls, priors: Sequence[ClassPrior]) -> ClassPrior:
        """
        The prior of several training sets over the same classes, used together.

        Raises:
            InputError: for other classes, and priors with showings: a sampler repeats images by the counts of all
                training sets together, so that those of each can't be added.
        """
        first = priors[0]
        counted = " and ".join(dict.fromkeys(p.counted for p in priors if p.counted))
        for other in priors[1:]:
            other.check_classes(first.class_names, "the first training set")
        if any(p.showings for p in priors):
            raise InputError("ClassPrior.merge: showings can't be added; merge the datasets' own priors.")
        instance_counts = [p.instance_count for p in priors if p.instance_count is not None]
        return cls(
            first.class_names,
            np.sum([p.image_count for p in priors], axis=0),
            sum(p.num_images for p in priors),
            np.sum(instance_counts, axis=0) if len(instance_counts) == len(priors) else None,
            counted,
        )

    # ------------------------------------------------------------------ asking it

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
        (K,) float64, f_j = image_count_j / N, kept inside (0, 1). Of the stream, where :attr:`showings` are known.

        A class in no image counts as half an image, and a class in every image as half an image fewer, so that
        log-odds stay finite. All other classes are exact.
        """
        counts = _half_for_none(self._basis.image_count)
        return np.minimum(counts, self._basis.num_images - 0.5) / self._basis.num_images

    @property
    def _basis(self) -> ClassPrior | Showings:
        """Where frequencies come from: the stream if it is known, else the dataset."""
        return self.showings or self

    @property
    def frequency_images(self) -> float:
        """The N of :meth:`image_frequency`: images that are trained on, or shown per epoch."""
        return self._basis.num_images

    def share(self, count: str = "image") -> np.ndarray:
        """
        (K,) float64, n_j / n: sums to 1 over the classes, zero counts taken as half a count.

        Args:
            count: "image" or "instance": what n_j counts.

        Raises:
            InputError: for another ``count``, or "instance" where instance counts are not known.
        """
        self._counts(count)  # refuses what it refuses without showings, too
        counts = _half_for_none(getattr(self._basis, f"{count}_count"))
        return counts / counts.sum()

    def _counts(self, count: str) -> np.ndarray:
        if count not in ("image", "instance"):
            raise InputError(f"count is {count!r}; valid: 'image', 'instance'.")
        if count == "image":
            return self.image_count
        if self.instance_count is None:
            raise InputError(
                "count is 'instance', but this class prior knows image counts only; use 'image', or a prior "
                "computed from the annotations."
            )
        return self.instance_count

    def repeat_factor(self, threshold: float, by: str = "image", sqrt: bool = True) -> np.ndarray:
        """
        (K,) float64, r_c = max(1, sqrt(t / f_c)): how often images of class c are shown per epoch, 1 for once.

        Zero counts are taken as half a count, as everywhere in this class.

        Args:
            threshold: t in [0, 1], the frequency below which a class is repeated; 0 repeats none. LVIS has 0.001.
            by: "image": f_c is the share of training images that hold class c (repeat factor sampling, Gupta et al.
                2019). "image_and_instance": f_c is the geometric mean of that and of the class's share of all
                instances (IRFS, Yaman et al. 2023).
            sqrt: False leaves out the square root, as later Detectron2s can.

        Raises:
            InputError: for a threshold outside [0, 1], another ``by``, or "image_and_instance" where instance counts
                are not known.
        """
        if not 0 <= threshold <= 1:
            raise InputError(f"The repeat threshold is {threshold}; it is a frequency, from 0 to 1 (LVIS has 0.001).")
        if by not in ("image", "image_and_instance"):
            raise InputError(f"by is {by!r}; valid: 'image', 'image_and_instance'.")
        # Not image_frequency(): it also lowers a class in every image, for the sake of log-odds.
        frequency = np.maximum(self._counts("image"), 0.5) / self.num_images
        if by == "image_and_instance":
            instances = self._counts("instance")
            frequency = np.sqrt(frequency * (np.maximum(instances, 0.5) / max(instances.sum(), 1)))
        factor = threshold / frequency
        return np.maximum(1.0, np.sqrt(factor) if sqrt else factor)

    def foreground_offset(self) -> np.ndarray:
        """
        (K,) float64, log((1 - f_j) / f_j): the offset of Balanced Sigmoid as published for instance segmentation.

        It is meant for foreground RoIs only. Between about 3.9 and 11.5 on LVIS-1.0.
        """
        frequency = self.image_frequency()
        return np.log1p(-frequency) - np.log(frequency)

    def centred_offset(self, count: str = "image") -> np.ndarray:
        """
        (K,) float64, log( (n/K)/n_j * (n-n_j)/(n-n/K) ) = log((n-n_j)/n_j) - log(K-1): the seed's Balanced Sigmoid.

        Zero for a class with exactly n/K samples, positive for rarer and negative for more frequent ones.

        Args:
            count: "image" or "instance": what n_j counts.
        """
        if self.num_classes == 1:
            return np.zeros(1)  # one class has nothing to be balanced against: 0/0 in the formula
        share = self.share(count)
        return np.log1p(-share) - np.log(share) - np.log(self.num_classes - 1)

    def softmax_offset(self, count: str = "image") -> np.ndarray:
        """
        (K,) float64, log(K n_j / n): log n_j of Balanced Softmax, shifted so that equal counts give 0.

        The shift is the same for all classes and so leaves a softmax over them unchanged; it matters for the
        background unit, see :class:`balanced_lvis.activations.BalancedSoftmax`.
        """
        return np.log(self.num_classes * self.share(count))

    def check_classes(self, class_names: Iterable[str], owner: str) -> None:
        """
        Raises:
            InputError: if this prior was made for other classes, or another order, than ``class_names``.
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


def _half_for_none(counts: np.ndarray) -> np.ndarray:
    return np.where(counts > 0, counts, 0.5)


def frequency_group(image_count: int) -> str:
    """LVIS's group of a category by its number of training images: "r" up to 10, "c" up to 100, "f" above."""
    return "r" if image_count <= RARE_MAX_IMAGES else "c" if image_count <= COMMON_MAX_IMAGES else "f"


@functools.cache
def _report_unknown_images(path: str, num_images: int) -> None:
    logger.warning(
        "Class prior %s doesn't say which images its num_images (%s) counts. Older versions counted all, also images "
        "without objects, which training leaves out by default. To train by it, write it again with "
        "tools/analyze_dataset.py --json.",
        path,
        f"{num_images:,}",
    )


@functools.cache
def _report_zero_counts(names: tuple[str, ...]) -> None:
    logger.warning(
        "%d class(es) are in no training image: %s. Their frequency is taken as half an image.",
        len(names), first_of(names, 10),
    )  # fmt: skip
