"""
The second stage of decoupled training: everything is frozen but the classifier.

Kang et al., Decoupling Representation and Classifier for Long-Tailed Recognition (ICLR 2020), in a detector.

Shape shorthand: R RoIs of all images together, D channels of the box head, K foreground classes.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import Instances
from torch import Tensor, nn

from ..utils.errors import InputError
from .box_predictor import ActivationOutputLayers

CLASSIFIER = "roi_heads.box_predictor.cls_score"
SCALE_FORMS = ("logits", "weights")


class ClassifierInputs(NamedTuple):
    """
    All that a classifier's training step needs of a batch of images.

    Attributes:
        features: (R, D) float32, the box head's output, without gradients.
        gt_classes: (R,) int64 in 0..K, K for background.
        roi_weight: (R,) weights of the RoIs' losses, or None for 1.
    """

    features: Tensor
    gt_classes: Tensor
    roi_weight: Tensor | None = None


class ScaledLinear(nn.Module):
    """
    A linear layer with a learned scale per output: Learnable Weight Scaling (LWS).

    Args:
        linear: its weight and bias are taken over; they are what stage 1 has learned.
        form: "logits" for (W x + b) s, as in the authors' classification code, or "weights" for (s W) x + b, as in
            EQLv2's detector. A sigmoid's bias of -6.9 is scaled in the first: a scale of 1.13 alone moves the logit
            by -0.9.

    Raises:
        InputError: for another ``form``.
    """

    def __init__(self, linear: nn.Linear, form: str = "logits"):
        super().__init__()
        if form not in SCALE_FORMS:
            raise InputError(f"MODEL.DECOUPLED.SCALE_FORM is {form!r}; valid: {', '.join(SCALE_FORMS)}.")
        self.form = form
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = nn.Parameter(torch.ones_like(linear.bias))

    def forward(self, x: Tensor) -> Tensor:
        """(R, D) to (R, K+1)."""
        if self.form == "logits":
            return F.linear(x, self.weight, self.bias) * self.scale
        return F.linear(x, self.weight * self.scale[:, None], self.bias)


@dataclass(frozen=True)
class ClassifierStage:
    """What a second stage trains of the classifier, and what it starts from."""

    trained: tuple[str, ...]  # the classifier's parameters that train
    fresh: tuple[str, ...]  # those that don't come from stage 1

    @property
    def scaled(self) -> bool:
        """Whether the classifier has scales."""
        return "scale" in self.trained

    @property
    def from_scratch(self) -> bool:
        """Whether nothing of stage 1's classifier is used."""
        return "weight" in self.fresh


CLASSIFIER_STAGES = {
    "retrain": ClassifierStage(trained=("weight", "bias"), fresh=("weight", "bias")),
    "finetune": ClassifierStage(trained=("weight", "bias"), fresh=()),
    "rescale": ClassifierStage(trained=("scale",), fresh=("scale",)),
}


def classifier_stage(name: str) -> ClassifierStage:
    """
    Raises:
        InputError: for an unknown name, listing the valid ones.
    """
    if name not in CLASSIFIER_STAGES:
        raise InputError(f"MODEL.DECOUPLED.CLASSIFIER is {name!r}; valid: {', '.join(CLASSIFIER_STAGES)}.")
    return CLASSIFIER_STAGES[name]


def is_second_stage(cfg) -> bool:
    """Whether the config's model trains only the classifier."""
    return issubclass(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), DecoupledRCNN)


def check_second_stage(cfg) -> None:
    """
    Check the settings of a second stage, if the config trains one.

    Raises:
        InputError: for an unknown classifier, or an invalid weight decay of LWS's scales.
    """
    if is_second_stage(cfg):
        classifier_stage(cfg.MODEL.DECOUPLED.CLASSIFIER)
        scale_decay(cfg)


def scale_decay(cfg) -> float:
    """
    The weight decay of LWS's scales.

    Raises:
        InputError: if ``MODEL.DECOUPLED.SCALE_WEIGHT_DECAY`` is neither None nor a number of 0 or more.
    """
    decay = cfg.MODEL.DECOUPLED.SCALE_WEIGHT_DECAY
    if decay is None:
        return cfg.SOLVER.WEIGHT_DECAY
    if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 <= decay < float("inf"):
        raise InputError(
            f"MODEL.DECOUPLED.SCALE_WEIGHT_DECAY is {decay!r}; it must be 0 or more, or None for SOLVER.WEIGHT_DECAY."
        )
    return decay


@META_ARCH_REGISTRY.register()
class DecoupledRCNN(GeneralizedRCNN):
    """
    A trained ``GeneralizedRCNN`` of which only the classifier goes on training.

    Backbone, FPN, RPN, box head, box regression and mask head are frozen, batch statistics too. A training step
    computes what the classification loss needs and nothing else: no RPN, box or mask losses, no gradients below the
    classifier, no masks of the ground truth. Inference is Detectron2's own. Parameters keep Detectron2's names;
    "rescale" adds ``roi_heads.box_predictor.cls_score.scale``.

    Args:
        classifier: "retrain" (cRT) starts the classifier anew, "finetune" goes on from stage 1's, "rescale" (LWS)
            learns one scale per class.
        scale_form: of "rescale", as in :class:`ScaledLinear`.
        **kwargs: as for ``GeneralizedRCNN``.

    Raises:
        InputError: for an unknown ``classifier``, or RoI heads with more than one classifier.
    """

    @configurable
    def __init__(self, *, classifier: str, scale_form: str = "logits", **kwargs):
        super().__init__(**kwargs)
        self.stage = classifier_stage(classifier)
        predictor = self.roi_heads.box_predictor
        if not isinstance(predictor, ActivationOutputLayers):
            raise InputError(
                f"MODEL.META_ARCHITECTURE DecoupledRCNN trains the one classifier of LongTailROIHeads, but "
                f"MODEL.ROI_HEADS.NAME is {type(self.roi_heads).__name__}."
            )
        if self.stage.scaled:
            predictor.cls_score = ScaledLinear(predictor.cls_score, scale_form)
        for parameter in self.parameters():
            parameter.requires_grad = False
        for name in self.stage.trained:
            getattr(self.classifier, name).requires_grad = True
        self.train()  # a new module is in training mode throughout

    @classmethod
    def from_config(cls, cfg):
        node = cfg.MODEL.DECOUPLED
        return {**super().from_config(cfg), "classifier": node.CLASSIFIER, "scale_form": node.SCALE_FORM}

    @property
    def classifier(self) -> nn.Module:
        """(R, D) features to (R, K+1) logits."""
        return self.roi_heads.box_predictor.cls_score

    @property
    def fresh_keys(self) -> tuple[str, ...]:
        """Names in the state dict that keep their initial values when stage 1 is loaded."""
        return tuple(f"{CLASSIFIER}.{name}" for name in self.stage.fresh)

    def train(self, mode: bool = True):
        """Frozen parts stay in evaluation mode, so that their batch statistics stay as they are."""
        super().train(False)
        self.training = mode
        self.classifier.train(mode)
        return self

    def forward(self, batched_inputs: list[dict] | ClassifierInputs):
        """
        Args:
            batched_inputs: as for ``GeneralizedRCNN``; in training, :class:`ClassifierInputs` are taken too.

        Returns:
            in training {"loss_cls": scalar}, else as ``GeneralizedRCNN``.
        """
        if not self.training:
            return self.inference(batched_inputs)
        if not isinstance(batched_inputs, ClassifierInputs):
            batched_inputs = self.classifier_inputs(batched_inputs)
        return self.roi_heads.box_predictor.classification_losses(*batched_inputs)

    @torch.no_grad()
    def classifier_inputs(self, batched_inputs: list[dict]) -> ClassifierInputs:
        """
        Sample RoIs of a batch as in training and compute their features.

        Args:
            batched_inputs: training records with ``image`` and ``instances``.
        """
        images = self.preprocess_image(batched_inputs)
        # Masks would be copied for every RoI, and nothing here reads them.
        targets = [_boxes_and_classes(record["instances"].to(self.device)) for record in batched_inputs]
        features = self.backbone(images.tensor)
        proposals = self._proposals(images, features, batched_inputs)
        proposals = self.roi_heads.label_and_sample_proposals(proposals, targets)
        features = [features[name] for name in self.roi_heads.box_in_features]
        pooled = self.roi_heads.box_pooler(features, [p.proposal_boxes for p in proposals])
        box_features = torch.flatten(self.roi_heads.box_head(pooled), start_dim=1)
        # The classifier works in full precision whatever is below it.
        return ClassifierInputs(box_features.float(), torch.cat([p.gt_classes for p in proposals]))

    def _proposals(self, images, features, batched_inputs):
        if self.proposal_generator is None:
            return [record["proposals"].to(self.device) for record in batched_inputs]
        with _proposals_as_in_training(self.proposal_generator):
            return self.proposal_generator(images, features)[0]


def _boxes_and_classes(instances: Instances) -> Instances:
    return Instances(instances.image_size, gt_boxes=instances.gt_boxes, gt_classes=instances.gt_classes)


@contextlib.contextmanager
def _proposals_as_in_training(rpn):
    """In evaluation mode an RPN computes no losses, which is wanted; it also keeps fewer proposals, which isn't."""
    before = rpn.pre_nms_topk, rpn.post_nms_topk
    rpn.pre_nms_topk, rpn.post_nms_topk = ({False: topk[True], True: topk[True]} for topk in before)
    try:
        yield
    finally:
        rpn.pre_nms_topk, rpn.post_nms_topk = before
