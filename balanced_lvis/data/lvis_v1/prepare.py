"""Setup of LVIS-1.0 in Detectron2's layout, from the network or from local files."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import portalocker

from ...utils.errors import InputError, did_you_mean
from ...utils.text import first_of
from .download import download, file_md5
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
    Download missing annotation files into ``root``/lvis, link folders of images, and check everything.

    Existing files are not replaced. After an interruption, the next call continues. Failed downloads are reported in
    the parts that need them.

    Args:
        root: the folder for ``lvis`` and ``coco``.
        splits: "train", "val", "test_dev".
        source: a folder with the annotation files or their zip archives, used instead of the network.
        coco: a folder with COCO's image folders, which are linked.
        url: URL of the folder with the archives.
        files: the annotation file of each split.

    Returns:
        as for :func:`balanced_lvis.data.lvis_v1.look`.

    Raises:
        InputError: for an unknown split, or a folder that doesn't exist or isn't writable.
    """
    check_splits(splits, files)
    if source is not None and not os.path.isdir(source):
        raise InputError(f"--from {source} is not a folder; give the folder with the annotation files.")
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
        InputError: for a split that is not in ``files``.
    """
    for split in splits:
        if split not in files:
            raise InputError(f"--splits {split!r} is unknown; valid: {', '.join(files)}.{did_you_mean(split, files)}")


def link_folders(coco: str | os.PathLike, root: str | os.PathLike, folders: Collection[str]) -> list[str]:
    """
    Make ``root``/coco/train2017 etc. symbolic links to the folders of a COCO download. Existing paths are kept.

    Args:
        coco: the folder that contains them, directly or in ``images``.
        root: the folder for ``lvis`` and ``coco``.
        folders: names of the needed folders.

    Returns:
        names of the folders that were linked.

    Raises:
        InputError: if ``coco`` contains none of them, or a link can't be created.
    """
    coco = Path(os.path.abspath(os.path.expanduser(coco)))
    found = {name: path for name in folders if (path := _folder(coco, name))}
    if not found:
        held = first_of(sorted(entry.name for entry in coco.iterdir()), 8) if coco.is_dir() else "it doesn't exist"
        raise InputError(
            f"--coco {coco} contains none of {', '.join(folders)} ({held or 'it is empty'}); give the folder that "
            "contains them."
        )
    linked = []
    for name, path in found.items():
        link = Path(root, "coco", name)
        if link.exists():
            continue
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            if link.is_symlink():  # to a path that no longer exists
                link.unlink()
            link.symlink_to(path, target_is_directory=True)
        except OSError as error:
            raise InputError(f"{link} can't be linked to {path}: {error.strerror or error}.") from error
        linked.append(name)
    return linked


def _folder(coco: Path, name: str) -> Path | None:
    return next((path for path in (coco / name, coco / "images" / name) if path.is_dir()), None)


def _get(file: AnnotationFile, target: Path, source: str | os.PathLike | None, url: str) -> None:
    """
    Raises:
        InputError: if the file can't be obtained.
    """
    if target.exists():  # another process has created it in the meantime
        return
    if source is None:
        archive = target.with_name(file.archive)
        if not archive.exists() or (file.md5 and file_md5(archive) != file.md5):
            download(f"{url.rstrip('/')}/{file.archive}", archive, file.md5)
        unpack(archive, file.name, target)
        archive.unlink()  # no longer needed
        return
    found = _brought(Path(source), file)
    if found.suffix != ".zip":
        copy(found, target)
        return
    if file.md5 and (md5 := file_md5(found)) != file.md5:
        raise InputError(f"{found} has the MD5 {md5}, but {file.md5} is published; download it again.")
    unpack(found, file.name, target)


def _brought(source: Path, file: AnnotationFile) -> Path:
    places = [Path(source, *folder, name) for folder in ((), ("lvis",)) for name in (file.name, file.archive)]
    for place in places:
        if place.is_file():
            return place
    raise InputError(
        f"--from {source} contains neither {file.name} nor {file.archive}; give the folder with one of them."
    )


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Lock ``target`` for this process. The lock of a killed process is released by the system."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(target.with_name(f".{target.name}.lock"), "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{target} can't be written: {error.strerror or error}; choose another --root.") from error
    with file:
        try:
            portalocker.lock(file, portalocker.LOCK_EX | portalocker.LOCK_NB)
        except portalocker.LockException:
            logger.info("Waiting for another process that creates %s", target)
            portalocker.lock(file, portalocker.LOCK_EX)
        yield
        with contextlib.suppress(OSError):
            os.unlink(file.name)
