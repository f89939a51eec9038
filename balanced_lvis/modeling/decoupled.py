"""
The second stage of decoupled training: only the classifier is trained.

Kang et al., Decoupling Representation and Classifier for Long-Tailed Recognition (ICLR 2020), in a detector.

Shape shorthand: R RoIs of all images together, D channels of the box head, K foreground classes, C outputs of the
classifier.
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
ACTIVATION = "roi_heads.box_predictor.activation"
SCALE_FORMS = ("logits", "weights")


class ClassifierInputs(NamedTuple):
    """
    The input of a classifier's training step.

    Attributes:
        features: (R, D) float32, the box head's output, without gradients.
        gt_classes: (R,) int64 in 0..K, K for background.
        roi_weight: (R,) weight of each RoI's loss, or None for 1.
    """

    features: Tensor
    gt_classes: Tensor
    roi_weight: Tensor | None = None


class ScaledLinear(nn.Module):
    """
    A linear layer with a learned scale per output: Learnable Weight Scaling (LWS).

    Args:
        linear: the layer of stage 1, whose weight and bias are used.
        form: "logits" for (W x + b) s, as in the authors' classification code, or "weights" for (s W) x + b, as in
            EQLv2's detector. The first also scales the bias: with a sigmoid's bias of -6.9, a scale of 1.13 alone moves
            the logit by -0.9.

    Raises:
        InputError: for another ``form``.
    """

    def __init__(self, linear: nn.Linear, form: str = "logits"):
        super().__init__()
        _check_form(form)
        self.form = form
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = nn.Parameter(torch.ones_like(linear.bias))

    def forward(self, x: Tensor) -> Tensor:
        """(R, D) to (R, C)."""
        if self.form == "logits":
            return F.linear(x, self.weight, self.bias) * self.scale
        return F.linear(x, self.weight * self.scale[:, None], self.bias)


def scaled_classifier(classifier: nn.Module, num_outputs: int, form: str) -> nn.Module:
    """
    A classifier with a learned scale per output, its parameter ``scale``.

    Args:
        classifier: of stage 1. A linear one becomes a :class:`ScaledLinear`; the logits of any other are scaled.
        num_outputs: C.
        form: as in :class:`ScaledLinear`.

    Raises:
        InputError: for another ``form``, or if ``classifier`` is not linear and can't be scaled in this form.
    """
    if type(classifier) is nn.Linear and classifier.bias is not None:
        return ScaledLinear(classifier, form)
    _check_form(form)
    if form != "logits" or hasattr(classifier, "scale"):
        raise InputError(
            f"MODEL.DECOUPLED.CLASSIFIER is 'rescale' with SCALE_FORM {form!r}, but the activation's classifier is a "
            f"{type(classifier).__name__}, which can't be rescaled in this form; use SCALE_FORM logits, unless the "
            "classifier has a parameter 'scale', or MODEL.DECOUPLED.CLASSIFIER finetune."
        )
    some = next(classifier.parameters())
    classifier.register_parameter("scale", nn.Parameter(some.new_ones(num_outputs)))
    classifier.register_forward_hook(_scale_outputs)
    return classifier


def _scale_outputs(classifier: nn.Module, _, logits: Tensor) -> Tensor:
    return logits * classifier.get_parameter("scale")


def _check_form(form: str) -> None:
    if form not in SCALE_FORMS:
        raise InputError(f"MODEL.DECOUPLED.SCALE_FORM is {form!r}; valid: {', '.join(SCALE_FORMS)}.")


@dataclass(frozen=True)
class ClassifierStage:
    """
    How a second stage treats the classifier.

    Attributes:
        scaled: learn one scale per output, and keep the classifier of stage 1.
        from_scratch: don't use the classifier of stage 1.
    """

    scaled: bool = False
    from_scratch: bool = False

    def trains(self, parameter: str) -> bool:
        """Whether a parameter of the classifier, such as "weight", is trained."""
        return not self.scaled or parameter == "scale"

    def is_fresh(self, key: str) -> bool:
        """Whether an entry of the classifier's state dict starts from its initial value, not from stage 1."""
        return self.from_scratch or (self.scaled and key == "scale")


CLASSIFIER_STAGES = {
    "retrain": ClassifierStage(from_scratch=True),
    "finetune": ClassifierStage(),
    "rescale": ClassifierStage(scaled=True),
}


def has_scales(model: nn.Module) -> bool:
    """Whether a model, or a part of it, is a second stage that learns scales."""
    return any(isinstance(module, DecoupledRCNN) and module.stage.scaled for module in model.modules())


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
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    return isinstance(architecture, type) and issubclass(architecture, DecoupledRCNN)  # a function is another model


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
    A trained ``GeneralizedRCNN`` of which only the classifier is trained further.

    Backbone, FPN, RPN, box head, box regression and mask head are frozen, including batch statistics. A training step
    computes only what the classification loss needs: no RPN, box or mask losses, no gradients below the classifier, no
    ground-truth masks. Inference is Detectron2's. Parameters have Detectron2's names; "rescale" adds
    ``roi_heads.box_predictor.cls_score.scale``.

    Args:
        classifier: "retrain" (cRT) trains a new classifier, "finetune" that of stage 1, and "rescale" (LWS) learns one
            scale per class.
        scale_form: of "rescale", as in :class:`ScaledLinear`.
        **kwargs: as for ``GeneralizedRCNN``.

    Raises:
        InputError: for an unknown ``classifier`` or ``scale_form``, or RoI heads with several classifiers.
    """

    @configurable
    def __init__(self, *, classifier: str, scale_form: str = "logits", **kwargs):
        super().__init__(**kwargs)
        self.stage = classifier_stage(classifier)
        predictor = self.roi_heads.box_predictor
        if not isinstance(predictor, ActivationOutputLayers):
            raise InputError(
                "MODEL.META_ARCHITECTURE DecoupledRCNN trains the classifier of LongTailROIHeads, but "
                f"MODEL.ROI_HEADS.NAME is {type(self.roi_heads).__name__}; set it to LongTailROIHeads."
            )
        if self.stage.scaled:
            predictor.cls_score = scaled_classifier(predictor.cls_score, predictor.activation.num_outputs, scale_form)
        for parameter in self.parameters():
            parameter.requires_grad = False
        for name, parameter in self.classifier.named_parameters():
            parameter.requires_grad = self.stage.trains(name)
        self.train()  # a new module is in training mode throughout

    @classmethod
    def from_config(cls, cfg):
        node = cfg.MODEL.DECOUPLED
        return {**super().from_config(cfg), "classifier": node.CLASSIFIER, "scale_form": node.SCALE_FORM}

    @property
    def classifier(self) -> nn.Module:
        """(R, D) features to (R, C) logits."""
        return self.roi_heads.box_predictor.cls_score

    @property
    def fresh_keys(self) -> tuple[str, ...]:
        """Entries of the state dict that keep their initial values when stage 1 is loaded."""
        classifier = [f"{CLASSIFIER}.{key}" for key in self.classifier.state_dict() if self.stage.is_fresh(key)]
        # State belongs to the classifier that it was collected with.
        activation = self.roi_heads.box_predictor.activation
        state = [f"{ACTIVATION}.{name}" for name in activation.states] if self.stage.from_scratch else []
        return (*classifier, *state)

    def train(self, mode: bool = True):
        """Frozen parts stay in evaluation mode, which keeps their batch statistics."""
        super().train(False)
        self.training = mode
        self.classifier.train(mode)
        return self

    def forward(self, batched_inputs: list[dict] | ClassifierInputs):
        """
        Args:
            batched_inputs: as for ``GeneralizedRCNN``, or, in training, :class:`ClassifierInputs`.

        Returns:
            {"loss_cls": scalar} in training, else as ``GeneralizedRCNN``.
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
        # Masks would be copied for every RoI, and are not needed.
        targets = [_boxes_and_classes(record["instances"].to(self.device)) for record in batched_inputs]
        features = self.backbone(images.tensor)
        proposals = self._proposals(images, features, batched_inputs)
        proposals = self.roi_heads.label_and_sample_proposals(proposals, targets)
        features = [features[name] for name in self.roi_heads.box_in_features]
        pooled = self.roi_heads.box_pooler(features, [p.proposal_boxes for p in proposals])
        box_features = torch.flatten(self.roi_heads.box_head(pooled), start_dim=1)
        # The classifier is computed in full precision also under autocast.
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
    """In evaluation mode an RPN computes no losses, as needed here, but also keeps fewer proposals than in training."""
    before = rpn.pre_nms_topk, rpn.post_nms_topk
    rpn.pre_nms_topk, rpn.post_nms_topk = ({False: topk[True], True: topk[True]} for topk in before)
    try:
        yield
    finally:
        rpn.pre_nms_topk, rpn.post_nms_topk = before
