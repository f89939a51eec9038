"""
Typed reader of the records in annotation files in COCO or LVIS format.

The checks, the index, the conversion and the class counts all read records with this module, so that each field has one
type and one meaning. docs/custom_dataset.md lists the meanings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from .json_stream import Decoder, Readable, stream_parts

LISTS = ("images", "categories", "annotations")
_LARGEST_ID = 2**62
_FLOAT, _LIST = {float}, {list}

# Lists of category ids of an image: absent ones, and those of which some objects have no annotation.
FEDERATED_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")

# Types that msgspec decodes.
_Id = Annotated[int, Meta(ge=-_LARGEST_ID, le=_LARGEST_ID)]
_Side = Annotated[int, Meta(ge=1, le=_LARGEST_ID)]
_Number = Annotated[int, Meta(ge=-_LARGEST_ID, le=_LARGEST_ID)] | float
_Box = Annotated[list[_Number], Meta(min_length=4, max_length=4)]
_Area = Annotated[int, Meta(ge=0, le=_LARGEST_ID)] | Annotated[float, Meta(ge=0)]
_Flag = bool | Literal[0, 1]


class RecordError(ValueError):
    """
    A record that can't be read. The message is the reason, in words that follow the record's name.

    Attributes:
        field: the invalid field; None if the record is not a JSON object.
        missing: whether the field is missing.
        kind: a key of :data:`balanced_lvis.data.validation.KINDS`; None for a malformed record.
        record: name of the record for messages, set by :func:`read_records`.
    """

    def __init__(self, reason: str, field: str | None = None, missing: bool = False, kind: str | None = None):
        super().__init__(reason)
        self.field, self.missing, self.kind = field, missing, kind
        self.record = ""

    @property
    def named(self) -> str:
        """The record's name and the reason."""
        return f"{self.record} {self}"


class Image(msgspec.Struct, gc=False):
    """
    Attributes:
        id, width, height: integers.
        file_name, coco_url: text; None if missing, null or empty.
        negative: ``neg_category_ids``; None if missing or null.
        not_exhaustive: ``not_exhaustive_category_ids``; None if missing or null.
    """

    id: _Id
    width: _Side
    height: _Side
    file_name: str | None = None
    coco_url: str | None = None
    negative: list[_Id] | None = msgspec.field(name="neg_category_ids", default=None)
    not_exhaustive: list[_Id] | None = msgspec.field(name="not_exhaustive_category_ids", default=None)

    def __post_init__(self):
        self.file_name, self.coco_url = self.file_name or None, self.coco_url or None


class Category(NamedTuple):
    """
    Attributes:
        id: an integer.
        name: text.
        content: the whole record.
    """

    id: int
    name: str
    content: dict

    @property
    def class_name(self) -> str:
        """Detectron2's name of the class: in LVIS files the first synonym, which differs from ``name`` once."""
        synonyms = self.content.get("synonyms") if "synset" in self.content else None
        if isinstance(synonyms, list) and synonyms and isinstance(synonyms[0], str):
            return synonyms[0]
        return self.name


class Annotation(msgspec.Struct, gc=False):
    """
    Attributes:
        id, image_id, category_id: integers.
        box: four numbers, x, y, width, height, which may be NaN or infinite.
        segmentation: polygons as a list of lists; an RLE mask as a dict; None without a mask. The content may be
            invalid.
        area: a finite number, at least 0; None if missing or null.
        is_crowd: ``iscrowd``: a region with any number of objects, which is not an object itself. 1 and 0 stand for
            True and False.
        is_ignored: ``ignore``: an object that is left out of training, counts and evaluation.
    """

    id: _Id
    image_id: _Id
    category_id: _Id
    box: _Box = msgspec.field(name="bbox")
    segmentation: list[list[_Number]] | dict | None = None
    area: _Area | None = None
    is_crowd: _Flag = msgspec.field(name="iscrowd", default=False)
    is_ignored: _Flag = msgspec.field(name="ignore", default=False)

    def __post_init__(self):
        if self.segmentation == []:
            self.segmentation = None

    @property
    def name(self) -> str:
        """Name for messages."""
        return f"annotation {self.id} of image {self.image_id}"

    @property
    def is_object(self) -> bool:
        """Whether it is used for training, counts and evaluation."""
        return not (self.is_crowd or self.is_ignored)


Record = Image | Category | Annotation | RecordError

_DECODERS: dict[str, Decoder] = {
    key: msgspec.json.Decoder(list[kind]).decode  # type: ignore[valid-type]
    for key, kind in (("images", Image), ("annotations", Annotation))
}


def read_records(
    file: Readable, optional: Collection[str] = (), seen: set[str] | None = None
) -> Iterator[tuple[str, Record]]:
    """
    Read all records of an annotation file as a stream.

    Args:
        file: JSON in UTF-8, open for reading in binary mode.
        optional: lists of :data:`LISTS` that may be missing.
        seen: receives the names of the lists that the file has.

    Yields:
        the name of the list, and its next record, or the error if the record can't be read.

    Raises:
        ValueError: as for :func:`.json_stream.stream_lists`.
    """
    for key, records in read_parts(file, optional, seen):
        yield from ((key, record) for record in records)


def read_parts(
    file: Readable, optional: Collection[str] = (), seen: set[str] | None = None
) -> Iterator[tuple[str, list[Record]]]:
    """
    As :func:`read_records`, but many records of a list at a time.

    Most records are decoded by msgspec. If one of a part has other types, or isn't valid JSON, all records of the part
    are read one at a time, so that the same records and errors result.
    """
    readers: dict[str, Callable] = {"images": read_image, "categories": read_category, "annotations": read_annotation}
    number = dict.fromkeys(LISTS, 0)
    for key, elements in stream_parts(file, LISTS, _DECODERS, optional, seen):
        records: list[Record] = []
        for place, element in enumerate(elements, number[key] + 1):
            if isinstance(element, (Image, Annotation)):
                records = elements
                break
            try:
                records.append(readers[key](element))
            except RecordError as error:
                error.record = name_of_record(key, place, element)
                records.append(error)
        number[key] += len(elements)
        yield key, records


def name_of_record(key: str, number: int, element) -> str:
    """The record's name for messages, by the ids in the file if there are any."""
    kind = {"images": "image", "categories": "category", "annotations": "annotation"}[key]
    if not isinstance(element, dict) or type(element.get("id")) is not int:
        return f"number {number}"
    of_image = element.get("image_id") if kind == "annotation" else None
    place = f" of image {of_image}" if type(of_image) is int else ""
    return f"{kind} {element['id']}{place}:"[:100]


def read_image(element) -> Image:
    """
    Raises:
        RecordError: if it is not a valid image.
    """
    _check_object(element)
    width, height = (_whole(element, name) for name in ("width", "height"))
    for name, size in zip(("width", "height"), (width, height)):
        if size < 1:
            raise RecordError(f"{name} is {size}", name)
    return Image(
        _whole(element, "id"),
        width,
        height,
        _text(element, "file_name"),
        _text(element, "coco_url"),
        _ids(element, "neg_category_ids"),
        _ids(element, "not_exhaustive_category_ids"),
    )


def read_category(element) -> Category:
    """
    Raises:
        RecordError: if it is not a valid category.
    """
    _check_object(element)
    name = _value(element, "name")
    if not isinstance(name, str):
        raise RecordError(f"name is {name!r:.60}", "name")
    return Category(_whole(element, "id"), name, element)


def read_annotation(element) -> Annotation:
    """
    Raises:
        RecordError: if it is not a valid annotation.
    """
    # A file can have a million annotations, so that the usual case takes few calls.
    _check_object(element)
    own_id, image_id, category_id = (_whole(element, name) for name in ("id", "image_id", "category_id"))
    box = _value(element, "bbox")
    if type(box) is not list or len(box) != 4 or not (_FLOAT.issuperset(map(type, box)) or all(map(_is_number, box))):
        raise RecordError(f"bbox is {box!r:.60}", "bbox")
    crowd, ignored = _flags(element) if "iscrowd" in element or "ignore" in element else (False, False)
    return Annotation(own_id, image_id, category_id, box, _segmentation(element), _area(element), crowd, ignored)


def _segmentation(element: dict) -> list | dict | None:
    value = element.get("segmentation")
    if value is None or isinstance(value, dict):
        return value
    if not isinstance(value, list) or not _LIST.issuperset(map(type, value)):
        raise RecordError(f"segmentation is {value!r:.60}", "segmentation")
    return value or None


def _area(element: dict) -> float | None:
    value = element.get("area")
    if value is not None and not (_is_number(value) and 0 <= value < math.inf):
        raise RecordError(f"area is {value!r:.60}", "area", kind="area_invalid")
    return value


def _flags(element: dict) -> tuple[bool, bool]:
    try:
        return read_flag(element, "iscrowd"), read_flag(element, "ignore")
    except ValueError as error:
        raise RecordError(str(error), str(error).partition(" ")[0], kind="flag_invalid") from error


def read_flag(record: Mapping, name: str) -> bool:
    """
    Args:
        record: an annotation.
        name: name of the field, "iscrowd" or "ignore".

    Returns:
        True for 1 and true; False for 0, false, null and a missing field.

    Raises:
        ValueError: for any other value. The text "0", for example, is true in Python, and an object would be lost.
    """
    value = record.get(name)
    if value is None or value is False or value is True:
        return value is True
    if type(value) is int and value in (0, 1):
        return value == 1
    raise ValueError(f"{name} is {value!r:.60}")


def _check_object(element) -> None:
    if not isinstance(element, dict):
        raise RecordError(f"is {element!r:.60}")


def _value(element: dict, name: str):
    try:
        return element[name]
    except KeyError:
        raise RecordError(f"has no {name!r}", name, missing=True) from None


def _whole(element: dict, name: str) -> int:
    value = element.get(name)
    if type(value) is int and -_LARGEST_ID <= value <= _LARGEST_ID:
        return value
    value = _value(element, name)
    raise RecordError(f"{name} is {value!r:.60}", name)


def _text(element: dict, name: str) -> str | None:
    value = element.get(name)
    if value is not None and not isinstance(value, str):
        raise RecordError(f"{name} is {value!r:.60}", name)
    return value or None


def _ids(element: dict, name: str) -> list[int] | None:
    value = element.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or any(type(i) is not int or abs(i) > _LARGEST_ID for i in value):
        raise RecordError(f"{name} is {value!r:.60}", name)
    return value


def _is_number(value) -> bool:
    return type(value) is float or (type(value) is int and abs(value) <= _LARGEST_ID)
