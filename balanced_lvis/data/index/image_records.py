"""Image records in Detectron2's standard format, created one at a time from an index."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from detectron2.structures import BoxMode
from torch.utils.data import Dataset

from ...priors import ClassLists
from ...utils.checksums import DamagedFileError
from ...utils.errors import InputError
from ..box_centres import centres_of_boxes
from .array_file import ArrayFile
from .coordinates import decode, decode_array

_SIDES = ("width", "height")


class LVISRecords(Dataset):
    """
    The records of Detectron2's ``load_lvis_json``, equal in every key, value and type, but each created on access.
    Annotations with ``ignore`` 1 are left out.

    It is pickled as a path, so that worker processes map the same file. The arrays of the index are as follows; image
    i's part of ``x`` starts at ``first_x[i]`` and ends at ``first_x[i + 1]``:

        image_id, image_height, image_width   (N,), images by ascending id
        name                                  the last two parts of coco_url, or else file_name, in UTF-8
        not_exhaustive, negative              category ids
        category_id                           (A,) as in the file, image after image: first_annotation
        num_polygons                          (A,)
        polygon_length                        (P,) numbers of each polygon: first_polygon
        numbers                               bytes: the box of each annotation, then its polygons; first_number
        number_code, number_crc32             (N,) encoding and checksum of an image's numbers

    Args:
        file: the index.
        image_root: as for Detectron2's loader: the folder's name is appended to it without a separator.
        contiguous_ids: category_id of the file -> 0..K-1; None: minus 1.
        filter_empty: leave out images without annotations.
        left_out: positions in the index of images to leave out.

    Raises:
        InputError: if ``contiguous_ids`` lacks a category of the annotations.
    """

    def __init__(
        self,
        file: ArrayFile,
        image_root: str,
        contiguous_ids: Mapping[int, int] | None = None,
        filter_empty: bool = False,
        left_out: np.ndarray | None = None,
    ):
        self._file, self._arrays = file, file.arrays
        self._image_root, self._contiguous_ids, self._filter_empty = image_root, contiguous_ids, filter_empty
        self._left_out = left_out
        first = self._arrays["first_annotation"]
        # Each record's position in the index. Detectron2 also leaves out images with crowd regions only; LVIS has none.
        self._places = np.flatnonzero(np.diff(first) > 0) if filter_empty else np.arange(len(first) - 1)
        self._places = self._places.astype(np.int32)
        if left_out is not None:
            self._places = self._places[~np.isin(self._places, left_out)]
        if contiguous_ids is not None:
            self._check_categories()
            self._known = np.array(sorted(contiguous_ids), np.int64)
            self._contiguous_of_known = np.array([contiguous_ids[i] for i in self._known.tolist()], np.int64)

    def __len__(self):
        return len(self._places)

    def __getitem__(self, index):
        """
        Args:
            index: index of the image, counted from the end if it is negative.

        Returns:
            dict: its record, a new one every time.

        Raises:
            IndexError: if there is no such image.
            InputError: if this part of the index file is damaged.
        """
        place = int(self._places[index])
        arrays = self._arrays
        return {
            "file_name": self._file_name(bytes(self._part("name", place))),
            "height": int(arrays["image_height"][place]),
            "width": int(arrays["image_width"][place]),
            "not_exhaustive_category_ids": self._part("not_exhaustive", place).tolist(),
            "neg_category_ids": self._part("negative", place).tolist(),
            "image_id": int(arrays["image_id"][place]),
            "annotations": self._annotations(place),
        }

    def __reduce__(self):
        options = (self._image_root, self._contiguous_ids, self._filter_empty, self._left_out)
        return _reopen, (self._file.path, self._file.header["source"]["sha256"], *options)

    def class_lists(self) -> ClassLists:
        """The classes of all images' instances; see :class:`balanced_lvis.priors.HasClassLists`."""
        return ClassLists(
            self._contiguous(self._class_ids()),
            np.concatenate([[0], np.cumsum(self._counts()[self._places])]),
            self._arrays["image_id"][self._places].tolist(),
        )

    def box_centres(self) -> np.ndarray:
        """
        (A, 2) float64, in the order of :meth:`class_lists`; see :func:`balanced_lvis.data.box_centres.box_centres`.

        Raises:
            InputError: if a part of the index file is damaged.
        """
        places = self._places[self._counts()[self._places] > 0]
        boxes = [self._boxes(place) for place in places.tolist()]
        sizes = [np.repeat(self._arrays[f"image_{side}"][places], self._counts()[places]) for side in _SIDES]
        return centres_of_boxes(np.concatenate([np.zeros((0, 4)), *boxes]), *sizes)

    def aspect_ratio_groups(self) -> np.ndarray:
        """(N,) int8: the group in Detectron2's ``AspectRatioGroupedDataset``, 0 if wider than high, else 1."""
        width, height = (self._arrays[name][self._places] for name in ("image_width", "image_height"))
        return (width <= height).astype(np.int8)

    def file_names(self) -> list[str]:
        """The ``file_name`` of all records."""
        data, first = self._arrays["name"].tobytes(), self._arrays["first_name"]
        starts, ends = first[self._places].tolist(), first[self._places + 1].tolist()
        return [self._file_name(data[start:end]) for start, end in zip(starts, ends)]

    def leaving_out(self, positions: Sequence[int]) -> LVISRecords:
        """
        The same records without some images.

        Args:
            positions: positions of these images.
        """
        gone = self._places[np.asarray(positions, np.int64)]
        gone = gone if self._left_out is None else np.union1d(gone, self._left_out)
        return LVISRecords(self._file, self._image_root, self._contiguous_ids, self._filter_empty, gone)

    def _file_name(self, name: bytes) -> str:
        folder, _, base = name.decode("utf-8", "surrogatepass").rpartition("/")
        return os.path.join(self._image_root + folder, base)

    def _class_ids(self) -> np.ndarray:
        """The file's category ids of all images' annotations."""
        ids = self._arrays["category_id"]
        if self._left_out is None:  # other images that are left out have no annotations
            return ids
        return ids[np.repeat(np.isin(np.arange(len(self._arrays["image_id"])), self._places), self._counts())]

    def _counts(self) -> np.ndarray:
        return np.diff(self._arrays["first_annotation"])

    def _part(self, name: str, place: int, first: str | None = None) -> np.ndarray:
        start, end = self._arrays[first or f"first_{name}"][place : place + 2].tolist()
        return self._arrays[name][start:end]

    def _annotations(self, place: int) -> list[dict]:
        categories = self._contiguous(self._part("category_id", place, "first_annotation")).tolist()
        num_polygons = self._part("num_polygons", place, "first_annotation").tolist()
        lengths = iter(self._part("polygon_length", place, "first_polygon").tolist())
        numbers, at = self._numbers(place), 0
        annotations = []
        for category, count in zip(categories, num_polygons):
            box, at = numbers[at : at + 4], at + 4
            polygons = []
            for _ in range(count):
                end = at + next(lengths)
                polygons.append(numbers[at:end])
                at = end
            annotations.append(
                {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": category, "segmentation": polygons}
            )
        return annotations

    def _boxes(self, place: int) -> np.ndarray:
        """(n, 4) float64: the boxes of an image's annotations."""
        num_polygons = self._part("num_polygons", place, "first_annotation").astype(np.int64)
        lengths = self._part("polygon_length", place, "first_polygon").astype(np.int64)
        # Each box is preceded by the polygons of the annotations before it.
        polygon_ends = np.append(0, np.cumsum(lengths))
        starts = 4 * np.arange(len(num_polygons)) + polygon_ends[np.cumsum(num_polygons) - num_polygons]
        return self._numbers(place, decode_array)[starts[:, None] + np.arange(4)]

    def _numbers(self, place: int, decoded=decode):
        data = self._part("numbers", place, "first_number")
        if zlib.crc32(data.data) != self._arrays["number_crc32"][place]:
            raise InputError(
                f"The index {self._file.path} is damaged at image {self._arrays['image_id'][place]}; delete it, and "
                "the next start rebuilds it."
            )
        return decoded(self._arrays["number_code"][place], data)

    def _contiguous(self, category_ids: np.ndarray) -> np.ndarray:
        """From the file's category ids to 0..K-1."""
        category_ids = category_ids.astype(np.int64)
        if self._contiguous_ids is None:
            return category_ids - 1
        return self._contiguous_of_known[np.searchsorted(self._known, category_ids)]

    def _check_categories(self) -> None:
        unknown = set(np.unique(self._arrays["category_id"]).tolist()) - set(self._contiguous_ids or ())
        if unknown:
            raise InputError(
                f"Annotations have category_id {min(unknown)}, which the dataset's metadata "
                "(thing_dataset_id_to_contiguous_id) doesn't have."
            )


class ChainedRecords(Dataset):
    """
    Concatenation of the records of several datasets.

    Args:
        parts: the records of each dataset.
    """

    def __init__(self, parts: list[LVISRecords]):
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts]).tolist()

    def __len__(self):
        return self._ends[-1]

    def __getitem__(self, index):
        """As :meth:`LVISRecords.__getitem__`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} images")
        index = int(index) % len(self)
        part = int(np.searchsorted(self._ends, index, "right"))
        return self._parts[part][index - self._ends[part] + len(self._parts[part])]

    def file_names(self) -> list[str]:
        """The ``file_name`` of all records."""
        return [name for part in self._parts for name in part.file_names()]

    def leaving_out(self, positions: Sequence[int]) -> ChainedRecords:
        """As :meth:`LVISRecords.leaving_out`."""
        places = np.sort(np.asarray(positions, np.int64))
        cuts = np.searchsorted(places, [0, *self._ends])
        starts = [0, *self._ends[:-1]]
        gone = [places[low:high] - start for low, high, start in zip(cuts, cuts[1:], starts)]
        return ChainedRecords([part.leaving_out(own) for part, own in zip(self._parts, gone)])

    def class_lists(self) -> ClassLists:
        """The classes of all images' instances."""
        lists = [part.class_lists() for part in self._parts]
        sizes = np.concatenate([np.diff(one.first) for one in lists])
        return ClassLists(
            np.concatenate([one.classes for one in lists]),
            np.concatenate([[0], np.cumsum(sizes)]),
            [image_id for one in lists for image_id in one.image_ids],
        )

    def box_centres(self) -> np.ndarray:
        """(A, 2), as :meth:`LVISRecords.box_centres`."""
        return np.concatenate([part.box_centres() for part in self._parts])

    def aspect_ratio_groups(self) -> np.ndarray:
        """(N,) int8, as :meth:`LVISRecords.aspect_ratio_groups`."""
        return np.concatenate([part.aspect_ratio_groups() for part in self._parts])


def _reopen(path: str, sha256: str, *options) -> LVISRecords:
    """Unpickle, in a worker process."""
    try:
        file = ArrayFile(path)
    except (OSError, DamagedFileError) as error:
        raise InputError(f"The index {path} has disappeared since the job started ({error}); start again.") from error
    if file.header["source"]["sha256"] != sha256:
        raise InputError(f"The index {path} was replaced since the job started; start again.")
    return LVISRecords(file, *options)
