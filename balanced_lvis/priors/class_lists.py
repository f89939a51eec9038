"""The classes in each image of a dataset, as two arrays: the input of priors and samplers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from ..utils.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class ClassLists:
    """
    The classes of all instances in N images, without crowd regions, which are not trained on.

    Args:
        classes: (A,) whole numbers, one per instance, image after image.
        first: (N + 1,) whole numbers: image i's classes are ``classes[first[i]:first[i + 1]]``.
        image_ids: N ids, for messages.
    """

    classes: np.ndarray
    first: np.ndarray
    image_ids: Sequence

    @classmethod
    def of(cls, dataset_dicts) -> ClassLists:
        """
        Args:
            dataset_dicts: N images in Detectron2's standard format, or a dataset that implements
                :class:`HasClassLists`.

        Raises:
            InputError: if ``iscrowd`` is neither 0 nor 1: Detectron2 treats any other value as a crowd region.
        """
        if isinstance(dataset_dicts, HasClassLists):
            return dataset_dicts.class_lists()
        lists = [_classes_of(record) for record in dataset_dicts]
        first = np.cumsum([0, *map(len, lists)])
        classes = np.fromiter((c for of_image in lists for c in of_image), np.int64, first[-1])
        return cls(classes, first, [record.get("image_id") for record in dataset_dicts])

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.first) - 1

    def check(self, num_classes: int) -> None:
        """
        Raises:
            InputError: if a class is outside 0..``num_classes``-1, naming the first image that contains one.
        """
        outside = np.flatnonzero((self.classes < 0) | (self.classes >= num_classes))
        if len(outside):
            image = int(np.searchsorted(self.first, outside[0], "right")) - 1
            raise InputError(
                f"Image {self.image_ids[image]!r} has category_id {self.classes[outside[0]]}, but there are only "
                f"{num_classes} classes (0..{num_classes - 1}); check the dataset's class names or "
                "MODEL.ROI_HEADS.NUM_CLASSES."
            )

    def images_by_class(self, num_classes: int) -> list[np.ndarray]:
        """
        For each of K = ``num_classes`` classes, the (n_j,) int32 positions of the images that contain it, in order.

        Raises:
            InputError: if a class is outside 0..K-1.
        """
        self.check(num_classes)
        classes = self.classes.astype(np.min_scalar_type(num_classes))  # sorted ten times faster by NumPy
        order = np.argsort(classes, kind="stable")  # keeps the images of a class in order
        classes = classes[order]
        images = np.repeat(np.arange(self.num_images, dtype=np.int32), np.diff(self.first))[order]
        is_new = np.append(True, (np.diff(classes) != 0) | (np.diff(images) != 0))[: len(images)]
        classes, images = classes[is_new], images[is_new]
        return np.split(images, np.searchsorted(classes, np.arange(1, num_classes)))


@runtime_checkable
class HasClassLists(Protocol):
    """A dataset that provides its classes without building a record of every image."""

    def __len__(self) -> int: ...

    def class_lists(self) -> ClassLists:
        """The classes of all its images, in their order."""


def check_crowds(dataset_dicts) -> None:
    """
    Args:
        dataset_dicts: as of :meth:`ClassLists.of`.

    Raises:
        InputError: as :meth:`ClassLists.of`, for a dataset whose class lists are not built.
    """
    if not isinstance(dataset_dicts, HasClassLists):
        for record in dataset_dicts:
            for annotation in record.get("annotations", ()):
                _is_crowd(annotation, record)


def _classes_of(record: Mapping) -> list[int]:
    return [a["category_id"] for a in record.get("annotations", ()) if not _is_crowd(a, record)]


def _is_crowd(annotation: Mapping, record: Mapping) -> bool:
    value = annotation.get("iscrowd", 0)
    if value not in (0, 1):
        raise InputError(
            f"Image {record.get('image_id')!r} has an annotation whose iscrowd is {value!r:.60}; write 0 or 1: "
            "Detectron2 treats any other value as a crowd region."
        )
    return bool(value)
