"""Status of the parts of LVIS-1.0, with remedies for missing ones."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from ...utils.errors import InputError
from ...utils.findings import SHOWN
from ..check_results import check_results_of
from ..images.image_paths import missing_images
from ..validation import Report
from .lvis_files import ANNOTATIONS, ANNOTATIONS_URL, IMAGE_URL, IMAGES_URL, NUM_COCO_IMAGES, AnnotationFile

THERE, MISSING, INCOMPLETE, WRONG = "there", "missing", "incomplete", "wrong"
COMMAND = "balanced-lvis prepare-lvis"


@dataclasses.dataclass(frozen=True)
class Part:
    """
    Attributes:
        name: path of the part below the root.
        state: "there", "missing", "incomplete" or "wrong".
        found: description of the existing files.
        remedy: what to do; "" if nothing must be done.
        notes: further information.
    """

    name: str
    state: str
    found: str = ""
    remedy: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the part is complete."""
        return self.state == THERE


def look(
    root: str | os.PathLike,
    splits: Sequence[str] = tuple(ANNOTATIONS),
    files: Mapping[str, AnnotationFile] = ANNOTATIONS,
    write: bool = False,
) -> list[Part]:
    """
    Args:
        root: the folder for ``lvis`` and ``coco``.
        splits: the needed splits of ``files``.
        files: the annotation file of each split.
        write: build the indexes for training in the same pass over each file. False: nothing is written.

    Returns:
        the annotation files, then the folders of images that they need.
    """
    parts, names = [], {}
    for split in splits:
        part, names[split] = _annotations(Path(root), split, files[split], write)
        parts.append(part)
    folders = dict.fromkeys(folder for split in splits for folder in files[split].folders)
    for split in splits:
        folders.update(dict.fromkeys(name.split("/")[0] for name in names[split] or ()))
    for folder in folders:
        users = [split for split in splits if folder in files[split].folders or _uses(names[split], folder)]
        parts.append(_images(Path(root), folder, {split: names[split] for split in users}))
    return parts


def show(parts: Sequence[Part]) -> str:
    """A table of all parts, followed by notes and remedies."""
    rows = [(part.name, part.state, part.found) for part in parts]
    lines = [tabulate(rows, ("part", "state", "found"), tablefmt="simple", maxcolwidths=[None, None, 84])]
    lines += [f"{part.name}: {note}" for part in parts for note in part.notes]
    remedies = [f"{part.name} is {part.state}:\n{_indented(part.remedy)}" for part in parts if not part.ok]
    return "\n\n".join([*lines, *remedies])


def _annotations(root: Path, split: str, expected: AnnotationFile, write: bool) -> tuple[Part, list[str] | None]:
    """The state of a file, and the names of its images if they are known."""
    name, path = f"lvis/{expected.name}", root / "lvis" / expected.name
    get = _get_annotations(root, split, expected)
    if not path.exists():
        return Part(name, MISSING, "", get), None
    try:
        checked = check_results_of(path, write)
    except InputError as error:
        return Part(name, WRONG, _line(error), _replace(path, get)), None
    report = checked.report
    notes = tuple(str(problem) for problem in report.warnings)
    if report.errors:
        found = "; ".join(str(problem).split(": ", 1)[1] for problem in report.errors)
        return Part(name, WRONG, found, _replace(path, get), notes), None
    differences = _differences(report, expected)
    if differences:
        return Part(name, WRONG, differences, _replace(path, get), notes), None
    return Part(name, THERE, _counts(report), "", notes), checked.image_names


def _get_annotations(root: Path, split: str, file: AnnotationFile) -> str:
    command = f"{_command(root)} --splits {split}"
    url = f"{ANNOTATIONS_URL}{file.archive}"
    return f"{command}\n(It downloads {url}.) Or, with a copy of that file: {command} --from ITS_FOLDER"


def _command(root: Path) -> str:
    return f"{COMMAND} --root {shlex.quote(str(root))}"


def _replace(path: Path, get: str) -> str:
    return f"rm {shlex.quote(str(path))}\n{get}"


def _line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] + (f" ({len(lines) - 1} more lines)" if len(lines) > 1 else "")


def _counts(report: Report) -> str:
    annotations = "no" if report.num_annotations is None else f"{report.num_annotations:,}"
    return f"{report.num_images:,} images, {annotations} annotations, {report.num_categories:,} categories"


def _differences(report: Report, expected: AnnotationFile) -> str:
    pairs = {
        "images": (report.num_images, expected.num_images),
        "annotations": (report.num_annotations or 0, expected.num_annotations or 0),
        "categories": (report.num_categories, expected.num_categories),
    }
    found = [f"{have:,} {what} instead of {want:,}" for what, (have, want) in pairs.items() if have != want]
    return f"{', '.join(found)}: another version, or a subset" if found else ""


def _uses(names: list[str] | None, folder: str) -> bool:
    return any(name.startswith(f"{folder}/") for name in names or ())


def _images(root: Path, folder: str, users: Mapping[str, list[str] | None]) -> Part:
    """
    Args:
        users: the names of the images of each split that needs the folder; None if its file is missing.
    """
    name, path = f"coco/{folder}", root / "coco" / folder
    needed = {split: [n for n in names if n.startswith(f"{folder}/")] for split, names in users.items() if names}
    wanted = sorted({image for images in needed.values() for image in images})
    of_splits = ", ".join(f"{len(images):,} of {split}" for split, images in needed.items())
    unknown = [split for split, names in users.items() if names is None]
    note = f"; the images of {' and '.join(unknown)} are unknown without annotations" if unknown else ""
    if not path.is_dir():
        found = f"needed for {of_splits or ' and '.join(users)}"
        return Part(name, MISSING, found, _get_images(root, folder), _why(folder, users))
    missing = missing_images([os.path.join(root, "coco", image) for image in wanted])
    if missing:
        first = ", ".join(wanted[i].split("/", 1)[1] for i in missing[:SHOWN])
        more = ", ..." if len(missing) > SHOWN else ""
        found = f"{len(missing):,} of {len(wanted):,} needed images are missing ({of_splits}): {first}{more}"
        remedy = _get_images(root, folder, [wanted[i] for i in missing])
        return Part(name, INCOMPLETE, found + note, remedy, _why(folder, users))
    found = f"all {len(wanted):,} needed images ({of_splits}){note}" if wanted else f"a folder{note}"
    return Part(name, THERE, found, "", _why(folder, users))


def _get_images(root: Path, folder: str, missing: Sequence[str] = ()) -> str:
    if folder not in NUM_COCO_IMAGES:
        return "LVIS-1.0 has no such folder; its annotations belong to another dataset."
    archive, place = shlex.quote(str(root / "coco" / f"{folder}.zip")), shlex.quote(str(root / "coco"))
    if 0 < len(missing) <= SHOWN:
        addresses = " ".join(f"{IMAGE_URL}{name}" for name in missing)
        return f"wget -P {shlex.quote(str(root / 'coco' / folder))} {addresses}"
    return (
        f"wget -c -P {place} {IMAGES_URL}{folder}.zip && unzip -n -q {archive} -d {place}\n"
        f"({NUM_COCO_IMAGES[folder]:,} images; existing ones are kept.) Or, if you have COCO: "
        f"{_command(root)} --coco FOLDER_THAT_HOLDS_{folder}"
    )


def _why(folder: str, users: Mapping[str, Collection[str] | None]) -> tuple[str, ...]:
    """The note that LVIS-1.0's val split needs train2017, too."""
    if folder != "val2017" or "val" not in users:
        return ()
    names = users["val"]
    of_train = sum(name.startswith("train2017/") for name in names or ())
    count = f"{of_train:,} of its {len(names):,}" if names else "most of its"
    return (
        f"LVIS-1.0 splits COCO's images differently: val has {count} images from train2017 and the rest from val2017, "
        "so that it needs both folders. Each image's folder is in its coco_url.",
    )


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
