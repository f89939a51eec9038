"""Command-line entry points: logging, warnings, and errors as one message with an exit status."""

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

from .. import _detectron2
from ..utils.errors import DivergedError, InputError, LostProcessError, StorageError
from ..utils.parent_process import end_with_starter
from ..utils.storage import clear_errors, clear_system_errors, is_storage_error
from ..utils.user_paths import expand_words
from .printing import escape_logged, print_error
from .signals import INTERRUPTED, ends_at_once
from .streams import LenientStream, kept_streams

# Errors that a command line shows as one message, without a traceback.
_SHOWN_ERRORS = (InputError, DivergedError, LostProcessError)


def command_line(function=None, *, prints_result: bool = False):
    """
    Decorator of the ``main`` of a command: hides third-party warnings, and turns the errors of this package into one
    message and an exit status.

    A leading ~ is expanded in every word of the command line, also where the shell did not expand it. Errors in writing
    standard output or standard error are ignored, unless the command prints its result. SIGTERM, SIGUSR1 and Ctrl-C
    exit with their status.

    Args:
        function: takes the command line, or nothing; None stands for ``sys.argv``.
        prints_result: whether standard output is the result of the command. If it can't be written, the exit status is
            that of :class:`balanced_lvis.utils.errors.StorageError`, or that of a program ended by SIGPIPE, as with
            ``| head``.

    Returns:
        a function that returns the exit status.
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
    except _SHOWN_ERRORS as error:
        print_error(error)
        return error.exit_status
    except KeyboardInterrupt:
        print_error("interrupted")
        return INTERRUPTED
    return 0


def log_to_screen() -> None:
    """Logs to the screen, for commands without an output folder."""
    from detectron2.utils.logger import setup_logger

    escape_logged(setup_logger(name="balanced_lvis"))


def log_to_files(output_dir: str, rank: int, argument: str = "OUTPUT_DIR") -> None:
    """
    Logs to the screen on rank 0, and to ``output_dir``/log.txt, with one file per rank.

    If the disk is full later, lines of the file are lost and one warning is shown.

    Args:
        output_dir: the folder.
        rank: rank of this process.
        argument: argument that names the folder, for messages.

    Raises:
        StorageError: if the file can't be opened.
    """
    from detectron2.utils.logger import setup_logger

    with clear_errors(output_dir, argument):
        os.makedirs(output_dir, exist_ok=True)
        setup_logger(output_dir, distributed_rank=rank, name=_detectron2.logger_name(), abbrev_name="d2")
        for name in ("fvcore", "balanced_lvis"):
            setup_logger(output_dir, distributed_rank=rank, name=name)
    lenient: dict[IO, LenientStream] = {}  # one stream for the file that all loggers share
    for name in (_detectron2.logger_name(), "fvcore", "balanced_lvis"):
        escape_logged(logging.getLogger(name))
        for handler in logging.getLogger(name).handlers:
            if not isinstance(handler, logging.StreamHandler):
                continue
            stream = handler.stream
            if not isinstance(stream, LenientStream) and stream not in (sys.stdout, sys.stderr):
                atexit.unregister(stream.close)  # registered by Detectron2; it may fail
                handler.stream = lenient.setdefault(stream, LenientStream(stream, name="the log"))


class _NotTheHistogram(logging.Filter):
    """Drops the instance table of Detectron2, which has 400 lines for 1,203 classes."""

    def filter(self, record):
        return not str(record.msg).startswith("Distribution of instances among all")


class _NoTraceback(logging.Filter):
    """Drops the traceback of errors shown as one message: Detectron2 logs one for any error that ends training."""

    def filter(self, record):
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, _SHOWN_ERRORS) or is_storage_error(error):
            record.msg, record.args, record.exc_info = "Training ends: %s", (type(error).__name__,), None
        return True


def _show_unless_storage_error(arguments) -> None:
    """Hides the traceback of TensorBoard's thread on a full disk; the thread that writes to it raises the error."""
    if not is_storage_error(arguments.exc_value):
        threading.__excepthook__(arguments)


def quiet() -> None:
    """Hides third-party warnings that users can't act on; for command lines only."""
    source = r"(detectron2|LabGym|fvcore|iopath|torch|torchvision|pkg_resources|lvis|pycocotools)(\.|$)"
    for category in (DeprecationWarning, FutureWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=source)
    # Messages on any results, on a deprecation, on a missing CUDA compiler without a GPU, and on how a job ends.
    loggers = ("lvis.results", "torch.fx._symbolic_trace", "torch.utils.cpp_extension", "torch.multiprocessing.spawn")
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    threading.excepthook = _show_unless_storage_error
    if not _detectron2.is_imported():
        return
    for part, filter_ in (("data.build", _NotTheHistogram), ("engine.train_loop", _NoTraceback)):
        logger = logging.getLogger(f"{_detectron2.logger_name()}.{part}")
        if not logger.filters:
            logger.addFilter(filter_())
