"""The class prior that training saves with its checkpoints, for calibrations and for second stages."""

from __future__ import annotations

import logging
import os

from ..activations import activation_class
from ..data.training_prior import SAVED_PRIOR, class_prior_from_config
from ..utils.errors import InputError
from ..utils.text import one_line
from .ema import FOLDER

logger = logging.getLogger(__name__)


def saved_prior(weights: str | os.PathLike) -> str:
    """The path of the class prior that training has saved with a checkpoint; empty if there is none."""
    folder = os.path.dirname(os.fspath(weights))
    folders = [folder, os.path.dirname(folder)] if os.path.basename(folder) == FOLDER else [folder]
    return next(filter(os.path.isfile, (os.path.join(each, SAVED_PRIOR) for each in folders)), "")


def save_class_prior(cfg) -> None:
    """
    Save the class prior of a training run to ``OUTPUT_DIR``, with any activation.

    Raises:
        InputError: if there is no prior and the activation needs one. Otherwise, a warning is logged.
    """
    try:
        prior = class_prior_from_config(cfg)
    except InputError as error:
        if activation_class(cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME).needs_prior:
            raise
        logger.warning(
            "The class prior can't be saved, so calibrations of this run's checkpoints will need "
            "MODEL.CLASS_PRIOR.FILE: %s", one_line(str(error)),
        )  # fmt: skip
        return
    prior.save(os.path.join(cfg.OUTPUT_DIR, SAVED_PRIOR))
