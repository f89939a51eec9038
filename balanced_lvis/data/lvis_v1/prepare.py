"""From nothing, or from files brought along, to LVIS-1.0 in Detectron2's layout."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import portalocker

from ...utils.errors import InputError, did_you_mean
from .download import download, file_md5
from .link import link_folders
from .lvis_files import ANNOTATIONS, ANNOTATIONS_URL, AnnotationFile
from .status import Part, look
from .unpack import copy, unpack

logger = logging.getLogger(__name__)


def prepare(
    root: str | os.PathLike,
    splits: Sequence[str] = tuple(ANNOTATIONS),
    *,
    source: str | os.PathLike | None = None,
    coco: str | os.PathLike | None = None,
    url: str = ANNOTATIONS_URL,
    files: Mapping[str, AnnotationFile] = ANNOTATIONS,
) -> list[Part]:
    """
    Put what is missing of the annotations into ``root``/lvis, link folders of images, and look at all of it.

    Nothing that is there is replaced. Interrupted, the next call goes on; without a network, the parts that it would
    take say so.

    Args:
        root: the folder that is to hold ``lvis`` and ``coco``.
        splits: "train", "val", "test_dev".
        source: a folder with the annotation files or their zip archives, to be used instead of the network.
        coco: a folder with COCO's folders of images, to be linked.
        url: where the archives are published.
        files: what each split is made of.

    Returns:
        as :func:`balanced_lvis.data.lvis_v1.look`.

    Raises:
        InputError: for an unknown split, or a folder that isn't there or can't be written to.
    """
    check_splits(splits, files)
    if source is not None and not os.path.isdir(source):
        raise InputError(f"--from {source} is not a folder; give the one that holds the annotation files.")
    folders = dict.fromkeys(folder for split in splits for folder in files[split].folders)
    if coco is not None:
        for name in link_folders(coco, root, folders):
            logger.info("Linked %s", Path(root, "coco", name))
    failures = {}
    for split in splits:
        target = Path(root, "lvis", files[split].name)
        if target.exists():
            continue
        try:
            with _alone(target):
                _get(files[split], target, source, url)
        except InputError as error:
            failures[f"lvis/{target.name}"] = str(error)
    parts = look(root, splits, files, write=True)
    return [dataclasses.replace(part, found=failures.get(part.name, part.found)) for part in parts]


def check_splits(splits: Sequence[str], files: Mapping[str, AnnotationFile] = ANNOTATIONS) -> None:
    """
    Raises:
        InputError: for one that ``files`` doesn't have.
    """
    for split in splits:
        if split not in files:
            raise InputError(f"--splits {split!r} is unknown; valid: {', '.join(files)}.{did_you_mean(split, files)}")


def _get(file: AnnotationFile, target: Path, source: str | os.PathLike | None, url: str) -> None:
    """
    Raises:
        InputError: if it can't be got.
    """
    if target.exists():  # another process has made it while this one waited
        return
    if source is None:
        archive = target.with_name(file.archive)
        if not archive.exists() or (file.md5 and file_md5(archive) != file.md5):
            download(f"{url.rstrip('/')}/{file.archive}", archive, file.md5)
        unpack(archive, file.name, target)
        archive.unlink()  # what it was for is there, ready to be read
        return
    found = _brought(Path(source), file)
    if found.suffix != ".zip":
        copy(found, target)
        return
    if file.md5 and (md5 := file_md5(found)) != file.md5:
        raise InputError(f"{found} has the MD5 {md5}, but {file.md5} is published; get it again.")
    unpack(found, file.name, target)


def _brought(source: Path, file: AnnotationFile) -> Path:
    places = [Path(source, *folder, name) for folder in ((), ("lvis",)) for name in (file.name, file.archive)]
    for place in places:
        if place.is_file():
            return place
    raise InputError(f"--from {source} holds neither {file.name} nor {file.archive}.")


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One process at a time; a killed one's lock is gone with it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(target.with_name(f".{target.name}.lock"), "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{target} can't be written: {error.strerror or error}; choose another --root.") from error
    with file:
        try:
            portalocker.lock(file, portalocker.LOCK_EX | portalocker.LOCK_NB)
        except portalocker.LockException:
            logger.info("Waiting for another process that makes %s", target)
            portalocker.lock(file, portalocker.LOCK_EX)
        yield
        with contextlib.suppress(OSError):
            os.unlink(file.name)
