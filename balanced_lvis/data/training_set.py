"""The training images of a config, for loaders and class priors."""

from __future__ import annotations

import logging

from detectron2.data import get_detection_dataset_dicts
from detectron2.utils import comm

from ..utils.errors import InputError
from ..utils.findings import SHOWN
from ..utils.text import first_of
from .dataset_records import file_names, load_records, missing_records

logger = logging.getLogger(__name__)


def training_records(cfg, together: bool = True):
    """
    Load the images of ``DATASETS.TRAIN``, without empty ones if ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``, and without
    missing ones if ``DATASETS.ALLOW_MISSING``.

    Args:
        cfg: Detectron2's config with balanced_lvis's keys.
        together: as for :func:`leave_out_missing`.

    Returns:
        as :func:`balanced_lvis.data.dataset_records.load_records`.

    Raises:
        InputError: if the files can't be read, or no image is left.
    """
    records = _records(cfg)
    return leave_out_missing(records, together) if cfg.DATASETS.ALLOW_MISSING else records


def leave_out_missing(records, together: bool = True):
    """
    Leave out images that are not on disk, and log a warning.

    All processes of a job leave out the images that are missing for any of them, so that they share one stream.

    Args:
        records: from :func:`balanced_lvis.data.dataset_records.load_records`, or a list.
        together: whether all processes of the job call this function. False: only images that are missing for this
            process are left out, without a warning.

    Raises:
        InputError: if none is left.
    """
    missing = missing_records(records)
    if together:
        missing = sorted(set().union(*comm.all_gather(missing)))
    if not missing:
        return records
    paths = file_names(records)
    if len(missing) == len(paths):
        raise InputError(f"None of the {len(paths):,} training images is on disk: {first_of(paths, SHOWN)}.")
    if together:
        logger.warning(
            "%s of %s training images are not on disk and are left out: %s",
            f"{len(missing):,}",
            f"{len(paths):,}",
            first_of([paths[i] for i in missing], SHOWN),
        )
    if hasattr(records, "leaving_out"):
        return records.leaving_out(missing)
    gone = set(missing)
    return [record for i, record in enumerate(records) if i not in gone]


def _records(cfg):
    if not cfg.MODEL.LOAD_PROPOSALS and not cfg.MODEL.KEYPOINT_ON:
        return load_records(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    return get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
