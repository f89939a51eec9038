"""Frequency groups of the categories of an annotation file: by their ``frequency``, or by numbers of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LETTERS = ("r", "c", "f")  # rare, common, frequent

# Sources of the groups of an annotation file.
FILE = "'frequency' of the file's categories"
TRAINING = "the number of training images"
OWN_IMAGES = "the number of images in the file itself"


def has_own_groups(categories: Sequence[Mapping]) -> bool:
    """Whether every category of a file has a valid ``frequency``."""
    return bool(categories) and all(category.get("frequency") in LETTERS for category in categories)


def groups_problem(categories: Sequence[Mapping]) -> str:
    """
    Why the groups in a file can't be used for evaluation.

    Args:
        categories: the file's category records.

    Returns:
        a sentence; "" if every category has a valid ``frequency``, or no category has any (null counts as none).
    """
    if has_own_groups(categories) or all(category.get("frequency") is None for category in categories):
        return ""
    wrong = [category for category in categories if category.get("frequency") not in LETTERS]
    first = wrong[0]
    return (
        f"'frequency' is not 'r', 'c' or 'f' in {len(wrong):,} of {len(categories):,} categories, the first being "
        f"category {first.get('id')!r:.20} {first.get('name')!r:.60} with {first.get('frequency')!r:.40}, so that it "
        "is unknown which categories are rare, common and frequent. Correct it, or remove 'frequency' from all "
        "categories: the groups then follow from the number of training images."
    )


def missing_groups(categories: Sequence[Mapping]) -> str:
    """As :func:`groups_problem`, for a file that is evaluated without conversion, so that it must have groups."""
    if has_own_groups(categories) or not categories:
        return ""
    problem = groups_problem(categories) or (
        "No category has a 'frequency', so that it is unknown which categories are rare, common and frequent. Set it "
        "to 'r', 'c' or 'f' in all of them, or let the groups follow from the number of training images."
    )
    return f"{problem} For that, name the file under DATASETS.CUSTOM (docs/custom_dataset.md)."


def source_of_groups(content: Mapping) -> str:
    """
    Args:
        content: content of the annotation file for evaluation, converted or not.

    Returns:
        one of :data:`FILE`, :data:`TRAINING` and :data:`OWN_IMAGES`.
    """
    info = content.get("info")
    source = info.get("groups") if isinstance(info, Mapping) else None
    return source if source in (TRAINING, OWN_IMAGES) else FILE
