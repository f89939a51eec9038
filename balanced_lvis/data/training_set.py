"""The images that a config trains on: loaders show them, and class priors count them."""

from __future__ import annotations

from detectron2.data import get_detection_dataset_dicts

from .dataset_records import load_records
from .preflight import leave_out_missing


def training_records(cfg, together: bool = True):
    """
    The images of ``DATASETS.TRAIN``, without empty ones where ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``, and without
    missing ones where ``DATASETS.ALLOW_MISSING``.

    Args:
        cfg: Detectron2's config with balanced_lvis's keys.
        together: all processes of the job call this and leave out what any of them lacks. False: what this one lacks.

    Returns:
        as :func:`balanced_lvis.data.dataset_records.load_records`.

    Raises:
        InputError: if the files can't be read, or no image is left.
    """
    records = _records(cfg)
    return leave_out_missing(records, together) if cfg.DATASETS.ALLOW_MISSING else records


def _records(cfg):
    if not cfg.MODEL.LOAD_PROPOSALS and not cfg.MODEL.KEYPOINT_ON:
        return load_records(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    return get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
