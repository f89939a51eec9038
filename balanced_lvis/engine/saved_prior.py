"""The class prior that training saves with its checkpoints, for calibrations and for second stages."""

from __future__ import annotations

import logging
import os

from ..activations import activation_class
from ..data.training_prior import class_prior_from_config, with_fractal_dimension
from ..priors import ClassPrior
from ..utils.errors import InputError
from ..utils.run_files import EMA, SAVED_PRIOR
from ..utils.text import one_line

logger = logging.getLogger(__name__)


def saved_prior(weights: str | os.PathLike) -> str:
    """The path of the class prior that training has saved with a checkpoint; empty if there is none."""
    folder = os.path.dirname(os.fspath(weights))
    folders = [folder, os.path.dirname(folder)] if os.path.basename(folder) == EMA else [folder]
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
    _with_boxes(cfg, prior).save(os.path.join(cfg.OUTPUT_DIR, SAVED_PRIOR))


def _with_boxes(cfg, prior: ClassPrior) -> ClassPrior:
    """The prior with the fractal dimensions, for FRACAL, if the training images give them."""
    if prior.fractal_dimension is not None or not cfg.DATASETS.TRAIN:
        return prior
    try:
        return with_fractal_dimension(cfg, prior)
    except InputError as error:
        logger.warning(
            "%s is saved without the fractal dimension of each class, which only the calibration fracal needs: %s",
            SAVED_PRIOR, one_line(str(error)),
        )  # fmt: skip
        return prior
