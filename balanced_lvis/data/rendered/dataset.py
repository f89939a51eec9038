"""Atomic creation of a rendered dataset on disk."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from ...utils.errors import InputError
from ...utils.io import sha256_of
from ...utils.parent_process import end_with_parent
from ...utils.text import one_line
from .glyphs import alphabet
from .lvis_json import SplitPlan, categories_json, draw_image, plan_splits, save_image, split_json
from .spec import SPLITS, RenderedSpec

logger = logging.getLogger(__name__)

_GENERATOR = "balanced_lvis.data.rendered"
_VERSION = 2  # must be incremented with every change of pixels or records
_SPEC_FILE, _UNFINISHED = "spec.json", "spec.json.tmp"
_ENTRIES = frozenset({"annotations", _SPEC_FILE, *SPLITS})
_MAX_WORKERS = 8
_LOG_SECONDS = 2
_CHUNK = 8  # images per task of a worker


def annotation_file(root: str | os.PathLike, split: str) -> Path:
    """Path of the annotations of a split, one of ``SPLITS``, in LVIS-1.0's format."""
    if split not in SPLITS:
        raise InputError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")
    return Path(root, "annotations", f"rendered_{split}.json")


def read_spec(root: str | os.PathLike) -> RenderedSpec | None:
    """The parameters of the dataset in a folder; None if there is no dataset of this version."""
    document = _read_document(Path(root))
    if document is None or document.get("version") != _VERSION:
        return None
    try:
        return RenderedSpec(**document["spec"])
    except (KeyError, TypeError, InputError):
        return None


def is_rendered(spec: RenderedSpec, root: str | os.PathLike) -> bool:
    """
    Whether a folder contains a complete dataset with exactly these parameters: annotations with the recorded size and
    checksum, and the right number of images, none of them empty.
    """
    root = Path(root)
    if read_spec(root) != spec:
        return False
    document = _read_document(root) or {}
    for split in SPLITS:
        stated = document.get("annotation_files", {}).get(split, {})
        try:
            path = annotation_file(root, split)
            if path.stat().st_size != stated.get("bytes") or sha256_of(path) != stated.get("sha256"):
                return False
            images = [entry for entry in os.scandir(root / split) if entry.name.endswith(".jpg")]
            if len(images) != spec.num_images(split) or not all(image.stat().st_size for image in images):
                return False
        except OSError:
            return False
    return True


def render_dataset(spec: RenderedSpec, root: str | os.PathLike, workers: int | None = None) -> Path:
    """
    Render the dataset if it doesn't exist.

    It is built in a folder next to ``root`` and moved when it is complete: an interrupted build leaves ``root``
    unchanged, and the next build removes its remains. A dataset with other parameters is replaced. Only one process
    builds in the same place at a time. The same spec gives the same bytes for any number of workers.

    Args:
        spec: the parameters.
        root: the folder for ``annotations/``, one folder of JPEGs for each split, and ``spec.json``.
        workers: number of processes; by default the number of processors, at most 8. 1 renders in this process.

    Returns:
        ``root``.

    Raises:
        InputError: if ``root`` contains anything except a rendered dataset, or ``workers`` is below 1.
    """
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise InputError(f"workers is {workers!r}; choose an integer of at least 1, or None")
    if is_rendered(spec, root):
        logger.info(f"Using the rendered dataset in {root}")
        return Path(root)
    target = Path(os.path.realpath(root))
    _refuse_foreign(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target):
        if not is_rendered(spec, target):  # another process may have rendered it in the meantime
            _refuse_foreign(target)
            _remove_partial(target)
            partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
            try:
                _build(spec, partial, _usable_workers(workers))
                _replace(target, partial)
            except OSError as error:
                if error.errno is not None:
                    error.filename = error.filename or str(root)  # errors of write have no file name
                raise
            finally:
                _remove_partial(target)
    return Path(root)


def _build(spec: RenderedSpec, folder: Path, workers: int) -> None:
    start = time.monotonic()
    logger.info(f"Rendering {spec} with {workers} worker{'s' * (workers > 1)}")
    folder.mkdir()
    (folder / "annotations").mkdir()
    plans = plan_splits(spec)
    categories = categories_json(alphabet(spec.num_classes), plans["train"].categories)
    files, first_id = {}, 1
    for split in SPLITS:
        (folder / split).mkdir()
        content = split_json(split, categories, _draw_split(plans[split], folder, workers), first_id)
        first_id += len(content["annotations"])
        data = json.dumps(content, separators=(",", ":")).encode()
        annotation_file(folder, split).write_bytes(data)
        files[split] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    document = {"generator": _GENERATOR, "version": _VERSION, "spec": asdict(spec), "annotation_files": files}
    unfinished = folder / _UNFINISHED
    unfinished.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / _SPEC_FILE)
    logger.info(f"Rendered {sum(map(spec.num_images, SPLITS))} images in {time.monotonic() - start:.0f} s")


def _draw_split(plan: SplitPlan, folder: Path, workers: int) -> list[tuple[dict, list[dict]]]:
    """Draw and save all images of a split; return their records and annotations in order."""
    total = plan.spec.num_images(plan.split)
    workers = min(workers, -(-total // _CHUNK))
    with contextlib.ExitStack() as stack:
        if workers == 1:
            results: Iterator = map(functools.partial(_draw_and_save, plan, folder), range(total))
        else:
            # Forking is fast and does not run the caller's main module again, but is not available on all systems.
            context = multiprocessing.get_context("fork" if sys.platform.startswith("linux") else None)
            arguments = (plan, folder)
            pool = ProcessPoolExecutor(workers, context, _start_worker, arguments)
            results = stack.enter_context(pool).map(_draw_in_worker, range(total), chunksize=_CHUNK)
        return list(_with_progress(results, total, plan.split))


def _draw_and_save(plan: SplitPlan, folder: Path, index: int) -> tuple[dict, list[dict]]:
    drawn = draw_image(plan, index)
    save_image(drawn, folder)
    return drawn.record, drawn.annotations


_worker_task: Callable | None = None


def _start_worker(plan: SplitPlan, folder: Path) -> None:
    global _worker_task
    _worker_task = functools.partial(_draw_and_save, plan, folder)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    end_with_parent()


def _draw_in_worker(index: int) -> tuple[dict, list[dict]]:
    assert _worker_task is not None
    return _worker_task(index)


def _with_progress(results, total: int, split: str) -> Iterator:
    """Yield results with a progress bar on a terminal, or else with a log line after every tenth of them."""
    is_terminal, logged = sys.stderr.isatty(), time.monotonic()
    bar = tqdm(results, f"Rendering {split}", total, unit="image", disable=not is_terminal, mininterval=0.5)
    for done, result in enumerate(bar, start=1):
        yield result
        is_tenth = done * 10 // total > (done - 1) * 10 // total
        if is_tenth and not is_terminal and time.monotonic() - logged > _LOG_SECONDS:
            logged = time.monotonic()
            logger.info(f"Rendering {split}: {done} of {total} images")


def _usable_workers(workers: int | None) -> int:
    if multiprocessing.current_process().daemon:  # daemons can't have children
        return 1
    if workers is None:
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(processors, _MAX_WORKERS)
    return workers


def _read_document(root: Path) -> dict | None:
    try:
        document = json.loads((root / _SPEC_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and document.get("generator") == _GENERATOR else None


def _refuse_foreign(target: Path) -> None:
    """Refuse to replace, and thereby delete, folders that this module hasn't created."""
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise InputError(f"root is {target}, which is not a folder; choose another path")
    entries = set(os.listdir(target))
    if not entries:
        return
    if _read_document(target) is None:
        raise InputError(f"root is {target}, a folder with other contents; choose an empty or new one")
    if entries - _ENTRIES:
        raise InputError(
            f"root is {target}, a rendered dataset with other parameters that also contains "
            f"{', '.join(map(one_line, sorted(entries - _ENTRIES)))}; move these away, or choose another folder"
        )


def _remove_partial(target: Path) -> None:
    """Remove the remains of interrupted builds. The caller holds the lock."""
    for folder in target.parent.iterdir():
        is_partial = folder.name.startswith(f"{target.name}.partial-") and folder.is_dir()
        if is_partial and not folder.is_symlink() and not set(os.listdir(folder)) - _ENTRIES - {_UNFINISHED}:
            # Workers of a killed build may still write for half a second.
            shutil.rmtree(folder, ignore_errors=True)


def _replace(target: Path, finished: Path) -> None:
    if target.exists():
        os.rename(target, target.with_name(f"{target.name}.partial-old-{os.getpid()}"))
    os.rename(finished, target)


_thread_lock = threading.Lock()


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Lock a folder for this thread, against other threads and processes."""
    with _thread_lock, open(target.with_name(f".{target.name}.lock"), "a", encoding="utf-8") as file:
        try:
            import fcntl
        except ImportError:  # Windows: only threads are excluded
            yield
            return
        # A record lock, unlike flock, is not inherited by forked workers that outlive a killed parent.
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            logger.info(f"Waiting for another process that renders {target}")
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield
