"""COCO's image folders, wherever they are, under Detectron2's names."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from ...utils.errors import InputError
from ...utils.text import first_of


def link_folders(coco: str | os.PathLike, root: str | os.PathLike, folders: Collection[str]) -> list[str]:
    """
    Make ``root``/coco/train2017 and so on symbolic links to the folders of a COCO download. What is there stays.

    Args:
        coco: the folder that holds them, or holds ``images`` that does.
        root: of Detectron2's layout.
        folders: names of those that are wanted.

    Returns:
        names of those that were linked.

    Raises:
        InputError: if ``coco`` holds none of them, or no link can be made.
    """
    coco = Path(os.path.abspath(os.path.expanduser(coco)))
    found = {name: path for name in folders if (path := _folder(coco, name))}
    if not found:
        held = first_of(sorted(entry.name for entry in coco.iterdir()), 8) if coco.is_dir() else "it doesn't exist"
        raise InputError(
            f"--coco {coco} holds none of {', '.join(folders)} ({held or 'it is empty'}); give the folder that they "
            "are in."
        )
    linked = []
    for name, path in found.items():
        link = Path(root, "coco", name)
        if link.exists():
            continue
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            if link.is_symlink():  # to what is no longer there
                link.unlink()
            link.symlink_to(path, target_is_directory=True)
        except OSError as error:
            raise InputError(f"{link} can't be made a link to {path}: {error.strerror or error}.") from error
        linked.append(name)
    return linked


def _folder(coco: Path, name: str) -> Path | None:
    return next((path for path in (coco / name, coco / "images" / name) if path.is_dir()), None)
