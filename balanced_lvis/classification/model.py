"""
The model: a network, the activation's classifier, and its scores.

Shape shorthand: B images, H x W pixels, D features, C outputs of the classifier, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..activations import Activation, build_activation
from ..calibration import Calibration, build_calibration
from ..calibration.base import check_fits, with_saved_files
from ..priors import ClassPrior
from ..utils.keyword_options import chosen_options
from .networks import NETWORKS, Network


class ImageClassifier(nn.Module):
    """
    Args:
        network: images to features.
        activation: makes the classifier, the loss and the scores.
        pixel_mean: (3,), from 0 to 255, subtracted from images.
        pixel_std: (3,), images are divided by it.
        calibration: test-time correction of the scores; None for none.
        channels_last: memory format of images and weights.
    """

    def __init__(
        self,
        network: Network,
        activation: Activation,
        pixel_mean,
        pixel_std,
        calibration: Calibration | None = None,
        channels_last: bool = False,
    ):
        super().__init__()
        self.network = network
        self.classifier = activation.classifier(network.out_features)
        self.activation = activation
        self.calibration = calibration
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self._format)
        self._mean: Tensor
        self._std: Tensor
        self.register_buffer("_mean", torch.tensor(pixel_mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(pixel_std).reshape(1, 3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to (B, D)."""
        return self.network(((images - self._mean) / self._std).contiguous(memory_format=self._format))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to (B, C) logits."""
        return self.classifier(self.features(images))

    def scores(self, logits: Tensor) -> Tensor:
        """(B, C) logits to (B, K) test-time scores, calibrated if there is a calibration."""
        if self.calibration is not None:
            return self.calibration.scores(self.activation, logits)
        return self.activation.scores(logits)


def build_model(cfg, num_classes: int, prior: ClassPrior | Callable[[], ClassPrior] | None = None) -> ImageClassifier:
    """
    Args:
        cfg: config.
        num_classes: K.
        prior: of the training set, or a function that returns it.

    Raises:
        InputError: for an unknown method or an invalid option, or a calibration that doesn't fit the activation.
    """
    network, activation, calibration = cfg.MODEL.NETWORK, cfg.MODEL.ACTIVATION, cfg.MODEL.CALIBRATION
    built = build_activation(
        activation.NAME, num_classes, prior, background=False, **chosen_options(activation, activation.NAME)
    )
    corrected = None
    if calibration.NAME:
        check_fits(calibration.NAME, activation.NAME)
        options = chosen_options(calibration, calibration.NAME)
        options = with_saved_files(calibration.NAME, options, cfg.MODEL.WEIGHTS)
        corrected = build_calibration(calibration.NAME, num_classes, prior, **options)
    return ImageClassifier(
        NETWORKS.build(network.NAME, **chosen_options(network, network.NAME)),
        built,
        cfg.INPUT.PIXEL_MEAN,
        cfg.INPUT.PIXEL_STD,
        corrected,
        cfg.MODEL.CHANNELS_LAST,
    )
