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

======================== ============================================================================
name                     paper
======================== ============================================================================
sigmoid                  one-versus-rest baseline with the initial bias of focal loss (Lin et al. 2017)
softmax                  baseline
balanced_sigmoid         Balanced Activation (Ren et al., LVIS 2020 challenge)
balanced_softmax         Balanced Meta-Softmax (Ren et al., NeurIPS 2020)
equalization             Equalization Loss with sigmoids (Tan et al., CVPR 2020)
drop_loss                DropLoss (Hsieh et al., AAAI 2021)
federated                federated loss (Zhou et al., 2021; Detectron2's USE_FED_LOSS)
gumbel                   Gumbel activation (Alexandridis et al., ECCV 2022)
gol                      Gumbel activation with the weights of DropLoss (Alexandridis et al., ECCV 2022)
effective_class_margin   ECM (Cho and Kraehenbuehl, ECCV 2022)
softmax_equalization     Equalization Loss with a softmax (Tan et al., CVPR 2020)
class_balanced_weighting softmax with inverse class frequencies as weights
class_balanced           Class-Balanced loss with a softmax (Cui et al., CVPR 2019)
ldam                     LDAM, and LDAM-DRW with ``drw_start`` (Cao et al., NeurIPS 2019)
focal                    focal loss with a softmax (after Lin et al., ICCV 2017)
sigmoid_focal            focal loss with sigmoids (Lin et al., ICCV 2017)
======================== ============================================================================
"""

from .balanced_sigmoid import BalancedSigmoid, balanced_sigmoid_loss, centred_offset, foreground_offset
from .balanced_softmax import BalancedSoftmax, balanced_softmax_loss, softmax_offset
from .base import Activation, activation_class, activation_names, build_activation, register_activation
from .class_balanced import ClassBalanced
from .class_balanced_weighting import ClassBalancedWeighting
from .drop_loss import DropLoss, drop_loss_weights, tail_share
from .effective_class_margin import (
    EffectiveClassMargin,
    effective_class_margin_loss,
    margin_shift,
    margin_weights,
    output_counts,
)
from .equalization import Equalization, equalization_loss
from .federated import Federated, federated_classes
from .focal import Focal, focal_losses
from .gol import GOL
from .gumbel import Gumbel, gumbel_loss
from .ldam import LDAM, CosineClassifier, ldam_margins
from .sigmoid import Sigmoid, sigmoid_loss
from .sigmoid_focal import SigmoidFocal, sigmoid_focal_loss
from .softmax import Softmax, softmax_loss
from .softmax_equalization import SoftmaxEqualization, softmax_equalization_loss
from .state import StateUpdates, state_keys
from .weighted_softmax import (
    WeightedSoftmax,
    effective_number_weights,
    inverse_frequency_weights,
    weighted_softmax_loss,
)

__all__ = [
    "GOL",
    "LDAM",
    "Activation",
    "BalancedSigmoid",
    "BalancedSoftmax",
    "ClassBalanced",
    "ClassBalancedWeighting",
    "CosineClassifier",
    "DropLoss",
    "EffectiveClassMargin",
    "Equalization",
    "Federated",
    "Focal",
    "Gumbel",
    "Sigmoid",
    "SigmoidFocal",
    "Softmax",
    "SoftmaxEqualization",
    "StateUpdates",
    "WeightedSoftmax",
    "activation_class",
    "activation_names",
    "balanced_sigmoid_loss",
    "balanced_softmax_loss",
    "build_activation",
    "centred_offset",
    "drop_loss_weights",
    "effective_class_margin_loss",
    "effective_number_weights",
    "equalization_loss",
    "federated_classes",
    "focal_losses",
    "foreground_offset",
    "gumbel_loss",
    "inverse_frequency_weights",
    "ldam_margins",
    "margin_shift",
    "margin_weights",
    "output_counts",
    "register_activation",
    "sigmoid_focal_loss",
    "sigmoid_loss",
    "softmax_equalization_loss",
    "softmax_loss",
    "softmax_offset",
    "state_keys",
    "tail_share",
    "weighted_softmax_loss",
]
