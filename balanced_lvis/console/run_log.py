"""Logs of a command that needs no Detectron2: to the screen, and to ``log.txt`` in its output folder."""

from __future__ import annotations

import logging
import os
import sys

from ..utils.run_files import LOG
from ..utils.storage import clear_errors
from .printing import EscapingFormatter
from .streams import LenientStream

_FORMAT = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
_TIME = "%m/%d %H:%M:%S"


def log_run(output_dir: str | os.PathLike) -> None:
    """
    Log to the screen, and to ``output_dir``/log.txt. Calls after the first one only change the folder.

    If the disk is full later, lines of the file are lost and one warning is shown.

    Raises:
        StorageError: if the file can't be opened.
    """
    with clear_errors(output_dir):
        os.makedirs(output_dir, exist_ok=True)
        file = open(os.path.join(output_dir, LOG), "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    logger = logging.getLogger("balanced_lvis")
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
    for stream in (sys.stdout, LenientStream(file, name="the log")):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(EscapingFormatter(logging.Formatter(_FORMAT, _TIME)))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
