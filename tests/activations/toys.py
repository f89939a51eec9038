"""Toy activations: one with state, one with more outputs and a classifier that is not linear."""

import contextlib
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

from balanced_lvis.activations import Activation, Softmax, activation_class, base, register_activation

COUNTING, OBJECTNESS = "toy_counting", "toy_objectness"


class Counting(Softmax):
    """A softmax whose training logits are shifted by the log of the classes seen so far."""

    def __init__(self, num_classes, prior=None, background=True):
        super().__init__(num_classes, prior, background)
        self.add_state("seen", torch.zeros(num_classes))
        self.add_state("mean_logit", torch.zeros(()), reduce="mean")

    def loss(self, logits, gt_classes, roi_weight=None):
        shift = F.pad((1 + self.seen).log(), (0, self.num_outputs - self.num_classes))
        return super().loss(logits + shift.to(logits.dtype), gt_classes, roi_weight)

    def observe(self, logits, gt_classes):
        self.seen += F.one_hot(gt_classes, self.num_classes + 1)[:, : self.num_classes].sum(0)
        self.mean_logit += logits.float().mean()


class Cosine(nn.Module):
    """Logits are 20 times the cosine of the features and a weight; there is no bias."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))

    def forward(self, x):
        return 20 * F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))


class Objectness(Activation):
    """K class logits and an objectness pair: the score of a class is softmax(classes) times P(object)."""

    family = OBJECTNESS
    normalized_scores = True

    @property
    def num_outputs(self):
        return self.num_classes + 2

    def classifier(self, in_features):
        return Cosine(in_features, self.num_outputs)

    def loss(self, logits, gt_classes, roi_weight=None):
        self._check(logits, roi_weight)
        if not len(logits):
            return logits.sum() * 0
        logits = base.full_precision(logits)
        foreground = gt_classes < self.num_classes
        classes = F.log_softmax(self.class_logits(logits), 1).gather(1, (gt_classes * foreground)[:, None])[:, 0]
        objects = F.log_softmax(logits[:, self.num_classes :], 1)
        losses = -torch.where(foreground, objects[:, 1] + classes, objects[:, 0])
        return (losses if roi_weight is None else losses * roi_weight.to(losses.dtype)).mean()

    def scores(self, logits):
        self._check(logits)
        logits = base.full_precision(logits)
        background, foreground = logits[:, self.num_classes :].softmax(1).unbind(1)
        return torch.cat([self.class_logits(logits).softmax(1) * foreground[:, None], background[:, None]], 1)


@contextlib.contextmanager
def registered():
    """Context in which the toys have names."""
    with mock.patch.object(base._ACTIVATIONS, "_classes", dict(base._ACTIVATIONS._classes)):
        register_activation(COUNTING)(Counting)
        register_activation(OBJECTNESS)(Objectness)
        assert activation_class(COUNTING) is Counting
        yield
