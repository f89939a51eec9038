"""
Activations: training losses and test-time scores of a classifier's logits.

Plain PyTorch, without Detectron2::

    from balanced_lvis.activations import build_activation
    from balanced_lvis.priors import ClassPrior

    prior = ClassPrior(("cat", "dog"), image_count=[90, 10], num_images=100)
    activation = build_activation("balanced_sigmoid", num_classes=2, prior=prior)
    loss = activation.loss(logits, gt_classes)  # logits (R, K+1), gt_classes (R,) in 0..K, K = background
    scores = activation.scores(logits)  # (R, K+1), unshifted

For image classification, ``background=False`` gives K outputs.

================== ==================================================================================
name               paper
================== ==================================================================================
sigmoid            one-versus-rest baseline with the initial bias of focal loss (Lin et al. 2017)
softmax            baseline
balanced_sigmoid   Balanced Activation (Ren et al., LVIS 2020 challenge)
balanced_softmax   Balanced Meta-Softmax (Ren et al., NeurIPS 2020)
equalization       Equalization Loss (Tan et al., CVPR 2020)
================== ==================================================================================
"""

from .balanced_sigmoid import BalancedSigmoid, balanced_sigmoid_loss, centred_offset, foreground_offset
from .balanced_softmax import BalancedSoftmax, balanced_softmax_loss, softmax_offset
from .base import Activation, activation_class, activation_names, build_activation, register_activation
from .equalization import Equalization, equalization_loss
from .sigmoid import Sigmoid, sigmoid_loss
from .softmax import Softmax, softmax_loss
from .state import StateUpdates, state_keys

__all__ = [
    "Activation",
    "BalancedSigmoid",
    "BalancedSoftmax",
    "Equalization",
    "Sigmoid",
    "Softmax",
    "StateUpdates",
    "activation_class",
    "activation_names",
    "balanced_sigmoid_loss",
    "balanced_softmax_loss",
    "build_activation",
    "centred_offset",
    "equalization_loss",
    "foreground_offset",
    "register_activation",
    "sigmoid_loss",
    "softmax_loss",
    "softmax_offset",
    "state_keys",
]
