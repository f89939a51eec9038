"""What a command line shows: calm logs, and bad input as one message."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import warnings

from detectron2.utils.logger import setup_logger

from .. import _detectron2
from ..errors import DivergedError, InputError, LostProcessError
from ..parent import end_with_starter
from .processes.preemption import INTERRUPTED, ends_at_once
from .storage import clear_errors

# What a command line shows as one message.
OURS = (InputError, DivergedError, LostProcessError)


def command_line(function):
    """
    Decorator of a tool's ``main``: a calm screen, and our own errors as one message and their status, no traceback.

    Signals that ask to stop end the process with their status, as Ctrl-C does.

    Returns:
        a function that returns the process's exit status.
    """

    @functools.wraps(function)
    def wrapped(*args, **kwargs) -> int:
        quiet()
        end_with_starter(lambda: os.kill(os.getpid(), signal.SIGTERM))
        try:
            with ends_at_once():
                function(*args, **kwargs)
        except OURS as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_status
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            return INTERRUPTED
        return 0

    return wrapped


def log_to_screen() -> None:
    """Show what a command line without an output folder does."""
    setup_logger(name="balanced_lvis")


def log_to_files(output_dir: str, rank: int) -> None:
    """
    Show what a run does, on rank 0, and keep it in ``output_dir``/log.txt, one file per rank.

    A disk that is full later on costs lines of that file, and is told once.

    Raises:
        StorageError: if the file can't be opened.
    """
    with clear_errors(output_dir):
        os.makedirs(output_dir, exist_ok=True)
        setup_logger(output_dir, distributed_rank=rank, name=_detectron2.logger_name(), abbrev_name="d2")
        for name in ("fvcore", "balanced_lvis"):
            setup_logger(output_dir, distributed_rank=rank, name=name)
    for name in (_detectron2.logger_name(), "fvcore", "balanced_lvis"):
        for handler in logging.getLogger(name).handlers:
            handler.handleError = _tell_once


def _tell_once(record: logging.LogRecord) -> None:
    """In place of logging's own traceback for every line that can't be written."""
    error = sys.exc_info()[1]
    if not isinstance(error, OSError):
        logging.Handler().handleError(record)
    elif error.errno not in _TOLD:
        _TOLD.add(error.errno)
        print(f"warning: the log can't be written to ({error.strerror}); the run goes on.", file=sys.stderr)


_TOLD: set[int | None] = set()


class _NotTheHistogram(logging.Filter):
    """Drops Detectron2's instance table, which takes 400 lines for 1,203 classes."""

    def filter(self, record):
        return not str(record.msg).startswith("Distribution of instances among all")


class _NoTraceback(logging.Filter):
    """Of errors that a command line shows as one message: Detectron2 logs one for whatever ends a training."""

    def filter(self, record):
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, OURS):
            record.msg, record.args, record.exc_info = "Training ends: %s", (type(error).__name__,), None
        return True


def quiet() -> None:
    """Keep other people's deprecation warnings off the screen of a command-line run; for command lines only."""
    source = r"(detectron2|LabGym|fvcore|iopath|torch|torchvision|pkg_resources|lvis|pycocotools)(\.|$)"
    for category in (DeprecationWarning, FutureWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=source)
    # What no user can act on: a note on any results, a deprecation, a CUDA compiler without a GPU, how a job is ended.
    loggers = ("lvis.results", "torch.fx._symbolic_trace", "torch.utils.cpp_extension", "torch.multiprocessing.spawn")
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name, filter_ in (("data.build", _NotTheHistogram), ("engine.train_loop", _NoTraceback)):
        source = logging.getLogger(f"{_detectron2.logger_name()}.{name}")
        if not source.filters:
            source.addFilter(filter_())
