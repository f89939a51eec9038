"""Random logits, classes and weights of RoIs, and counts of classes for a prior."""

import torch

K, R = 6, 40
IMAGE_COUNT = [1, 5, 20, 60, 150, 400]
INSTANCE_COUNT = [1, 9, 20, 200, 160, 4000]
NUM_IMAGES = 500


def batch(seed=0, rois=R, outputs=K + 1, classes=K + 1, dtype=torch.float64):
    """Logits (rois, outputs), and a class of each RoI, below ``classes``."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rois, outputs, generator=generator, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), torch.randint(0, classes, (rois,), generator=generator)


def roi_weights(weighted=True, rois=R):
    """Between 0 and 2, some of them 0; None if not ``weighted``."""
    if not weighted:
        return None
    weight = 2 * torch.rand(rois, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return weight * (weight > 0.3)


def loss_and_gradient(activation, logits, gt_classes, roi_weight=None):
    loss = activation.loss(logits, gt_classes, roi_weight)
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.item(), gradient.numpy()
