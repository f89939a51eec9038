"""Opening of indexes: paths, freshness, locking and building."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import portalocker

from ...utils.checksums import DamagedFileError
from ...utils.errors import InputError
from ...utils.io import replacing, sha256_of
from .array_file import ArrayFile, copy_with_header
from .building import NotIndexableError, build_index, stamp_of

logger = logging.getLogger(__name__)

MODE = "BALANCED_LVIS_INDEX"


def open_index(json_file: str | os.PathLike) -> ArrayFile | None:
    """
    Open the index of an LVIS JSON file. If there is none, it is built.

    Args:
        json_file: a local path.

    Returns:
        the index; None if ``BALANCED_LVIS_INDEX=off``, if no folder is writable, or if the file can't be indexed. The
        latter two are logged as a warning.

    Raises:
        InputError: if the file can't be read or is not in LVIS format.
    """
    json_file, mode = os.path.abspath(json_file), os.environ.get(MODE, "")
    if mode == "off":
        return None
    places = places_of(json_file, ".index")
    found = find_index(json_file)
    if found is not None and mode != "verify":
        return found
    problems = []
    for place in places:
        try:
            return _verify_or_build(json_file, place, always_hash=mode == "verify")
        except (OSError, portalocker.LockException) as error:
            problems.append(f"{place} ({error})")
        except NotIndexableError as error:
            problems = [f"it can't be indexed ({error})"]
            break
    logger.warning(
        "%s is loaded without an index, which is slow and done by every process: %s.", json_file, "; ".join(problems)
    )
    return None


def find_index(json_file: str | os.PathLike) -> ArrayFile | None:
    """
    As :func:`open_index`, but without building an index: None if there is none that matches the file's size and
    modification time. Nothing is written.
    """
    json_file = os.path.abspath(json_file)
    stamp = _stamp_of_annotations(json_file)
    for place in places_of(json_file, ".index"):
        with contextlib.suppress(OSError, DamagedFileError):
            found = ArrayFile(place)
            if _source_stamp(found) == stamp:
                return found
    return None


def _verify_or_build(json_file: str, place: str, always_hash: bool) -> ArrayFile:
    """
    Raises:
        OSError, portalocker.LockException: if nothing can be written at ``place``.
    """
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with locked(place):  # another process may have built it in the meantime
        found = _read(place)
        if found is None or not _is_of(found, json_file, place, always_hash):
            _build(json_file, place)
        return ArrayFile(place)


def _is_of(found: ArrayFile, json_file: str, place: str, always_hash: bool) -> bool:
    """Whether an index is up to date, by size and time, or else by SHA-256. The caller holds the lock."""
    stamp, source = stamp_of(json_file), found.header["source"]
    if _source_stamp(found) == stamp and not always_hash:
        return True
    if source["size"] != stamp["size"] or source["sha256"] != sha256_of(json_file):
        return False
    if source["mtime_ns"] != stamp["mtime_ns"]:
        with replacing(place, "wb+") as file:  # so that the next start doesn't read the whole file again
            copy_with_header(place, file, {"source": {**source, **stamp}})
    return True


def _build(json_file: str, place: str) -> None:
    start = time.monotonic()
    logger.info("Building the index of %s in %s; later starts are fast", json_file, place)
    with replacing(place, "wb+") as file:
        build_index(json_file, file)
    logger.info("Built the index of %s in %.0f s", json_file, time.monotonic() - start)


def _read(place: str) -> ArrayFile | None:
    try:
        return ArrayFile(place)
    except DamagedFileError as error:
        logger.warning("The index is rebuilt: %s.", error)
    except OSError:
        pass  # there is none
    return None


def _stamp_of_annotations(json_file: str) -> dict[str, int]:
    try:
        return stamp_of(json_file)
    except OSError as error:
        raise InputError(f"Annotations {json_file} can't be read: {error.strerror}.") from error


def _source_stamp(found: ArrayFile) -> dict:
    return {key: found.header["source"][key] for key in ("size", "mtime_ns")}


def places_of(json_file: str, ending: str) -> list[str]:
    """Paths for a file derived from ``json_file``: next to it, then in the user's cache folder, if there is one."""
    sibling = f"{json_file}{ending}"
    cache = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if not os.path.isabs(cache):  # the home folder is unknown
        return [sibling]
    digest = hashlib.sha256(os.fsencode(json_file)).hexdigest()[:16]
    return [sibling, os.path.join(cache, "balanced_lvis", f"{Path(json_file).stem[:80]}-{digest}{ending}")]


@contextlib.contextmanager
def locked(place: str) -> Iterator[None]:
    """Lock ``place`` for this process. The lock of a killed process is released by the system."""
    with open(f"{place}.lock", "a", encoding="utf-8") as file:
        try:
            portalocker.lock(file, portalocker.LOCK_EX | portalocker.LOCK_NB)
        except portalocker.LockException:  # or locks are not supported, and the next line fails
            logger.info("Waiting for another process that builds %s", place)
            portalocker.lock(file, portalocker.LOCK_EX)
        yield
