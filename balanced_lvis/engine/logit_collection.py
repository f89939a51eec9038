"""One pass over training images with a trained model, for the statistics of the calibration ``logn``."""

from __future__ import annotations

import logging
import os

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from detectron2.utils.file_io import PathManager
from torch import Tensor
from tqdm import tqdm

from ..calibration import LogitStatistics, StatisticsCollector
from ..config import thawed
from ..data.annotations.class_names import check_num_classes
from ..data.config_datasets import prepare_datasets, resolve_num_classes
from ..data.dataset_files import check_datasets
from ..data.loader import build_train_loader
from ..data.samplers import class_names_from_config
from ..data.training_set import training_records
from ..modeling.box_predictor import ActivationOutputLayers
from ..utils.errors import InputError
from ..utils.io import cached_sha256
from ..utils.storage import check_output
from .checkpoints.identity import Identity
from .checkpoints.weights import check_weights, load_for_evaluation
from .trainer import Trainer

logger = logging.getLogger(__name__)


def collect_logit_statistics(cfg, num_images: int = 0, output: str | os.PathLike = "") -> LogitStatistics:
    """
    Mean and standard deviation of the logit of each class, over the RoIs of training images.

    Images come from the training loader of the config, with its sampler and augmentation, and RoIs are labelled and
    sampled as in training: background RoIs count, too. Weights and statistics of the model don't change.

    Args:
        cfg: config of the checkpoint in ``MODEL.WEIGHTS``. Its calibration is ignored.
        num_images: number of images, rounded up to whole batches; 0: as many as the training set has.
        output: file that the statistics will be saved to, checked before the pass; empty for none.

    Raises:
        InputError: if the config, the training set or the checkpoint is invalid, or if the model has no single
            classifier.
        StorageError: if ``output`` can't be written.
    """
    if num_images < 0:
        raise InputError(f"--images is {num_images}; it must be 0 or more.")
    cfg = thawed(cfg)
    cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME = ""
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    _check(cfg)
    if output:
        check_output(output)
    digest = cached_sha256(PathManager.get_local_path(cfg.MODEL.WEIGHTS.split("?", 1)[0]))
    seed_all_rng(max(cfg.SEED, 0))
    model = _model(cfg)
    wanted = num_images or len(training_records(cfg))
    collector, seen = StatisticsCollector(cfg.MODEL.ROI_HEADS.NUM_CLASSES), 0
    logger.info("Collecting the logits of %d training images", wanted)
    with tqdm(total=wanted, unit="img", disable=None) as bar:
        for batch in build_train_loader(cfg, masks=False):
            collector.add(_class_logits(model, batch))
            seen += len(batch)
            bar.update(len(batch))
            if seen >= wanted:
                break
    return collector.statistics(class_names_from_config(cfg), cfg.MODEL.WEIGHTS, digest)


def _check(cfg) -> None:
    if not cfg.MODEL.WEIGHTS or not cfg.DATASETS.TRAIN:
        key, what = ("MODEL.WEIGHTS", "a checkpoint") if not cfg.MODEL.WEIGHTS else ("DATASETS.TRAIN", "its dataset")
        raise InputError(f"{key} is empty; set it to {what}, of which the logits are collected.")
    if cfg.MODEL.LOAD_PROPOSALS or cfg.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals":
        raise InputError(
            "The config reads precomputed proposals (MODEL.LOAD_PROPOSALS, MODEL.PROPOSAL_GENERATOR.NAME "
            "PrecomputedProposals), with which logits can't be collected; use a model with an RPN."
        )
    prepare_datasets(cfg)
    resolve_num_classes(cfg)
    check_datasets(cfg.DATASETS.TRAIN)
    check_num_classes(tuple(cfg.DATASETS.TRAIN), cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    check_weights(cfg.MODEL.WEIGHTS, "evaluation")


def _model(cfg) -> GeneralizedRCNN:
    model = Trainer.build_model(cfg)
    predictor = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    if not isinstance(model, GeneralizedRCNN) or not isinstance(predictor, ActivationOutputLayers):
        raise InputError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE!r} with MODEL.ROI_HEADS.NAME "
            f"{cfg.MODEL.ROI_HEADS.NAME!r} has no single classifier, of which logit statistics could be collected; use "
            "LongTailROIHeads."
        )
    load_for_evaluation(model, cfg.MODEL.WEIGHTS, Identity.from_config(cfg, evaluation=True), cfg.MODEL.TRUST_WEIGHTS)
    model.eval()
    model.proposal_generator.train()  # as many proposals as in training
    return model


@torch.no_grad()
def _class_logits(model: GeneralizedRCNN, batch: list[dict]) -> Tensor:
    """(R, K) logits of the RoIs that training would sample."""
    images = model.preprocess_image(batch)
    targets = [record["instances"].to(model.device) for record in batch]
    with EventStorage():  # which Detectron2's training code writes to
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features, targets)
        heads = model.roi_heads
        proposals = heads.label_and_sample_proposals(proposals, targets)
        levels = [features[name] for name in heads.box_in_features]
        pooled = heads.box_pooler(levels, [p.proposal_boxes for p in proposals])
        logits, _ = heads.box_predictor(heads.box_head(pooled))
    return heads.box_predictor.activation.class_logits(logits)
