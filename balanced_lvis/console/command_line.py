"""What a command line shows: calm logs, and bad input as one message."""

from __future__ import annotations

import atexit
import errno
import functools
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import IO

from detectron2.utils.logger import setup_logger

from .. import _detectron2
from ..utils.errors import DivergedError, InputError, LostProcessError, StorageError
from ..utils.parent_process import end_with_starter
from ..utils.storage import clear_errors, clear_system_errors, is_storage_error
from ..utils.user_paths import expand_words
from .printing import escape_logged, print_error
from .signals import INTERRUPTED, ends_at_once
from .streams import LenientStream, kept_streams

# What a command line shows as one message.
OURS = (InputError, DivergedError, LostProcessError)


def command_line(function=None, *, prints_result: bool = False):
    """
    Decorator of a tool's ``main``: a calm screen, and our own errors as one message and their status, no traceback.

    Every word of the command line may begin with ~, also where a shell hasn't expanded it. Standard output and error
    that can't be written to end nothing, except where they are all that a tool is for. Signals that ask to stop end the
    process with their status, as Ctrl-C does.

    Args:
        function: whose argument, if it has one, is the command line; None or left out: ``sys.argv``.
        prints_result: whether the tool's result is what it prints. Where that is lost, the status is
            :class:`balanced_lvis.utils.errors.StorageError`'s, or that of a program ended by SIGPIPE, as of ``| head``.

    Returns:
        a function that returns the process's exit status.
    """
    if function is None:
        return functools.partial(command_line, prints_result=prints_result)

    @functools.wraps(function)
    def wrapped(arguments: Sequence[str] | None = None) -> int:
        with kept_streams() as output:
            status = _status_of(functools.partial(_call, function, arguments))
            output.flush()
            if not prints_result or output.error is None:
                return status
            if output.error.errno == errno.EPIPE:
                return 128 + signal.SIGPIPE
            print_error(f"standard output can't be written: {output.error.strerror}.")
            return status or StorageError.exit_status

    return wrapped


def _call(function, arguments: Sequence[str] | None) -> None:
    if arguments is None:
        sys.argv[1:] = expand_words(sys.argv[1:])
        function()
    else:
        function(expand_words(arguments))


def _status_of(call) -> int:
    quiet()
    end_with_starter(lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with ends_at_once(), clear_system_errors():
            call()
    except OURS as error:
        print_error(error)
        return error.exit_status
    except KeyboardInterrupt:
        print_error("interrupted")
        return INTERRUPTED
    return 0


def log_to_screen() -> None:
    """Show what a command line without an output folder does."""
    escape_logged(setup_logger(name="balanced_lvis"))


def log_to_files(output_dir: str, rank: int) -> None:
    """
    Show what a run does, on rank 0, and keep it in ``output_dir``/log.txt, one file per rank.

    A disk that is full later on costs lines of that file, and a warning is shown once.

    Raises:
        StorageError: if the file can't be opened.
    """
    with clear_errors(output_dir):
        os.makedirs(output_dir, exist_ok=True)
        setup_logger(output_dir, distributed_rank=rank, name=_detectron2.logger_name(), abbrev_name="d2")
        for name in ("fvcore", "balanced_lvis"):
            setup_logger(output_dir, distributed_rank=rank, name=name)
    lenient: dict[IO, LenientStream] = {}  # all loggers share a file
    for name in (_detectron2.logger_name(), "fvcore", "balanced_lvis"):
        escape_logged(logging.getLogger(name))
        for handler in logging.getLogger(name).handlers:
            if not isinstance(handler, logging.StreamHandler):
                continue
            stream = handler.stream
            if not isinstance(stream, LenientStream) and stream not in (sys.stdout, sys.stderr):
                atexit.unregister(stream.close)  # which Detectron2 has registered, and which may fail
                handler.stream = lenient.setdefault(stream, LenientStream(stream, name="the log"))


class _NotTheHistogram(logging.Filter):
    """Drops Detectron2's instance table, which takes 400 lines for 1,203 classes."""

    def filter(self, record):
        return not str(record.msg).startswith("Distribution of instances among all")


class _NoTraceback(logging.Filter):
    """Of errors that a command line shows as one message: Detectron2 logs one for whatever ends a training."""

    def filter(self, record):
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, OURS) or is_storage_error(error):
            record.msg, record.args, record.exc_info = "Training ends: %s", (type(error).__name__,), None
        return True


def _shown_unless_of_storage(arguments) -> None:
    """Not the traceback of TensorBoard's thread on a full disk: the thread that asks it to write gets the error."""
    if not is_storage_error(arguments.exc_value):
        threading.__excepthook__(arguments)


def quiet() -> None:
    """Keep other people's deprecation warnings off the screen of a command-line run; for command lines only."""
    source = r"(detectron2|LabGym|fvcore|iopath|torch|torchvision|pkg_resources|lvis|pycocotools)(\.|$)"
    for category in (DeprecationWarning, FutureWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=source)
    # What no user can act on: a note on any results, a deprecation, a CUDA compiler without a GPU, how a job is ended.
    loggers = ("lvis.results", "torch.fx._symbolic_trace", "torch.utils.cpp_extension", "torch.multiprocessing.spawn")
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    threading.excepthook = _shown_unless_of_storage
    for part, filter_ in (("data.build", _NotTheHistogram), ("engine.train_loop", _NoTraceback)):
        logger = logging.getLogger(f"{_detectron2.logger_name()}.{part}")
        if not logger.filters:
            logger.addFilter(filter_())
