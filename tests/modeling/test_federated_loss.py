"""Federated loss against Detectron2's own, with the same state of the random generator."""

import functools
import types

import pytest
import torch
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers

from balanced_lvis.activations import build_activation, federated_classes
from balanced_lvis.data.training_prior import class_prior_of_dataset
from balanced_lvis.priors import ClassPrior


def detectron2s(weight, wanted):
    """Detectron2's layers as far as its loss reads them."""
    return types.SimpleNamespace(
        use_fed_loss=True,
        fed_loss_num_classes=wanted,
        fed_loss_cls_weights=weight,
        get_fed_loss_classes=functools.partial(FastRCNNOutputLayers.get_fed_loss_classes, None),
    )


@pytest.mark.parametrize(
    ("present", "with_background"),
    [(0, True), (1, False), (1, True), (20, True), (48, True), (49, False), (49, True), (50, False), (60, True)],
)
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_are_detectron2s(present, with_background, seed):
    """With fewer, as many and more classes in the batch than the 50 that are counted."""
    prior = class_prior_of_dataset("lvis_v1_train")
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randperm(1203, generator=generator)[:present]
    gt_classes = torch.cat([classes, classes[: present // 2], torch.tensor([1203] * 9 * with_background).long()])
    logits = torch.randn(len(gt_classes), 1204, generator=generator).requires_grad_()
    activation = build_activation("federated", 1203, prior)
    stock = detectron2s(torch.tensor(prior.image_count).float() ** 0.5, 50)
    losses = []
    for loss in (activation.loss, types.MethodType(FastRCNNOutputLayers.sigmoid_cross_entropy_loss, stock)):
        torch.manual_seed(seed)
        losses.append(loss(logits, gt_classes))
    (ours, ours_gradient), (theirs, theirs_gradient) = ((x, torch.autograd.grad(x, logits)[0]) for x in losses)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours_gradient, theirs_gradient, rtol=1e-6, atol=0)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_classes_are_detectron2s(power):
    prior = ClassPrior(tuple(map(str, range(80))), [i * i for i in range(1, 81)], 6400)
    activation = build_activation("federated", 80, prior, classes_per_batch=30, power=power)
    for seed in range(20):
        gt_classes = torch.randint(0, 81, (seed,), generator=torch.Generator().manual_seed(seed))
        torch.manual_seed(seed)
        kept = federated_classes(gt_classes, activation.class_weight, 30)
        torch.manual_seed(seed)
        weight = torch.tensor(prior.image_count).float() ** power
        expected = FastRCNNOutputLayers.get_fed_loss_classes(None, gt_classes, 30, 80, weight)
        assert set(kept.nonzero()[:, 0].tolist()) == set(expected.tolist()) - {80}
