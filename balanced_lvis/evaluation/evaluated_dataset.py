"""The files of the dataset that a config evaluates on."""

from __future__ import annotations

from typing import NamedTuple

from detectron2.data import MetadataCatalog

from ..data.config_datasets import prepare_dataset
from ..data.registered_files import evaluation_file_of
from .submission import annotation_file_of


class EvaluatedDataset(NamedTuple):
    """
    Attributes:
        annotations: path of the annotation file, in LVIS format.
        image_root: folder of the images; None if it is not known.
    """

    annotations: str
    image_root: str | None


def evaluated_dataset(cfg, name: str) -> EvaluatedDataset:
    """
    Args:
        cfg: a config that defines the dataset, if it is rendered or custom. It is not changed.
        name: name of the dataset.

    Raises:
        InputError: if there is no such dataset, or it has no annotation file.
    """
    cfg = cfg.clone()
    cfg.defrost()
    prepare_dataset(cfg, name)
    annotation_file_of(name)
    return EvaluatedDataset(evaluation_file_of(name), MetadataCatalog.get(name).get("image_root"))
