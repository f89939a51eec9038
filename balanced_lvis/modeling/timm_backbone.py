"""Networks of timm with FPN as backbones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor

from ..utils.errors import InputError

# Names of feature maps by their stride, as those of Detectron2's ResNets.
_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class TimmBackbone(Backbone):
    """
    The feature maps of a network of timm.

    Batch normalisation is frozen, as in Detectron2's backbones: a batch of a detector has too few images for its own
    statistics. All other parameters are trained. Weights are those of ``MODEL.WEIGHTS`` or ``train.init_checkpoint``.

    Args:
        name: name of the network in timm, such as "tf_efficientnet_lite0".
        out_features: names of the feature maps, of "res2" to "res5" with strides 4 to 32.
        in_channels: number of channels of images.

    Raises:
        InputError: if timm is not installed, has no such network, or the network has no feature maps with these
            strides.
    """

    def __init__(self, name: str, out_features: Sequence[str] = tuple(_STRIDES), in_channels: int = 3):
        super().__init__()
        unknown = [feature for feature in out_features if feature not in _STRIDES]
        if unknown or not out_features:
            raise InputError(f"The feature maps of {name!r} are {[*out_features]}; valid: {', '.join(_STRIDES)}.")
        self.network = network = _create(name, in_channels)
        info = network.feature_info
        found = {stride: place for stride, *place in zip(info.reduction(), itertools.count(), info.channels())}
        missing = [_STRIDES[feature] for feature in out_features if _STRIDES[feature] not in found]
        if missing:
            raise InputError(
                f"The network {name!r} of timm has feature maps with the strides {sorted(found)}, but not "
                f"{', '.join(map(str, missing))}; choose another network, or other feature maps."
            )
        self._out_features = list(out_features)
        self._out_feature_strides = {feature: _STRIDES[feature] for feature in out_features}
        self._out_feature_channels = {feature: found[_STRIDES[feature]][1] for feature in out_features}
        self._indices = {feature: found[_STRIDES[feature]][0] for feature in out_features}

    @property
    def size_divisibility(self) -> int:
        """32: timm's networks round sizes up, but FPN adds maps of exactly half the size."""
        return max(_STRIDES.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """
        Args:
            images: (N, C, H, W), normalised; H and W are multiples of 32.

        Returns:
            (N, C', H / stride, W / stride) for each of ``out_features``.
        """
        maps = self.network(images)
        return {feature: maps[index] for feature, index in self._indices.items()}


def _create(name: str, in_channels: int) -> Any:
    try:
        import timm
        from timm.layers import freeze_batch_norm_2d
    except ImportError:
        raise InputError(f"The network {name!r} needs timm 0.9 or newer: pip install timm.") from None
    if not timm.is_model(name):
        similar = ", ".join(timm.list_models(f"*{name.strip('*')[:8]}*")[:5])
        raise InputError(
            f"timm {timm.__version__} has no network {name!r}" + (f"; similar: {similar}." if similar else ".")
        )
    try:
        network: Any = timm.create_model(name, features_only=True, in_chans=in_channels)
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise InputError(f"The network {name!r} of timm has no feature maps: {error}") from error
    if getattr(network, "output_fmt", "NCHW") != "NCHW":
        raise InputError(f"The network {name!r} of timm has its channels last; choose a convolutional network.")
    if network.pretrained_cfg.get("fixed_input_size"):
        raise InputError(f"The network {name!r} of timm takes images of one size only; choose a convolutional network.")
    return freeze_batch_norm_2d(network)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """
    :class:`TimmBackbone` with FPN.

    Args:
        cfg: reads ``MODEL.TIMM.NAME``, ``MODEL.BACKBONE.FREEZE_AT`` and ``MODEL.FPN``.
        input_shape: of the image.

    Returns:
        FPN with levels p2 to p6, for the default ``MODEL.FPN.IN_FEATURES``.

    Raises:
        InputError: as for :class:`TimmBackbone`; or if ``FREEZE_AT`` is not 0.
    """
    if cfg.MODEL.BACKBONE.FREEZE_AT:
        raise InputError(
            f"MODEL.BACKBONE.FREEZE_AT is {cfg.MODEL.BACKBONE.FREEZE_AT}, but networks of timm are trained as a whole; "
            "set it to 0."
        )
    return FPN(
        bottom_up=TimmBackbone(cfg.MODEL.TIMM.NAME, cfg.MODEL.FPN.IN_FEATURES, input_shape.channels),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
