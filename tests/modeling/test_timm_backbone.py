"""Networks of timm as backbones."""

import itertools

import pytest
import torch
from detectron2.layers import ShapeSpec

from balanced_lvis.config import load_config
from balanced_lvis.modeling import TimmBackbone, timm_backbone
from balanced_lvis.modeling.timm_backbone import build_timm_fpn_backbone
from balanced_lvis.utils.errors import InputError

timm = pytest.importorskip("timm")
IMAGES = ShapeSpec(channels=3)
CONFIG = "custom/efficientnet_lite0_balanced_sigmoid"


# dla34 leaves out the first of its feature maps.
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "mobilenetv3_small_100", "dla34"])
def test_feature_maps_are_those_of_timm(name):
    torch.manual_seed(0)
    backbone = TimmBackbone(name, ("res3", "res5")).train()
    x = torch.rand(2, 3, 64, 96)
    maps = backbone(x)
    strides = dict(zip(backbone.network.feature_info.reduction(), itertools.count()))
    expected = backbone.network.eval()(x)  # frozen batch normalisation: the same in training and evaluation
    assert list(maps) == ["res3", "res5"]
    for (key, value), stride in zip(maps.items(), (8, 32)):
        shape = backbone.output_shape()[key]
        assert value.shape == (2, shape.channels, 64 // stride, 96 // stride) and shape.stride == stride
        assert torch.equal(value, expected[strides[stride]])


def test_batch_normalisation_is_frozen_and_the_rest_is_trained():
    network = TimmBackbone("tf_efficientnet_lite0").network
    names = {name for name, _ in network.named_parameters()}
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert "blocks.0.0.conv_dw.weight" in names and not any(".bn" in name for name in names)
    assert "blocks.0.0.bn1.running_mean" in network.state_dict()


@pytest.mark.parametrize(
    ("name", "features", "message"),
    [
        ("tf_efficientnet_lite", ("res2",), "similar: tf_effic"),
        ("nothing", ("res2",), "has no network 'nothing'"),
        ("vit_tiny_patch16_224", ("res2",), "images of one size only"),
        ("mambaout_femto", ("res2",), "has its channels last"),
        ("resnet18", ("p2",), "valid: res2, res3, res4, res5"),
    ],
)
def test_unsuitable_networks_are_refused(name, features, message):
    with pytest.raises(InputError) as error:
        TimmBackbone(name, features)
    assert message in str(error.value)


def test_missing_strides_are_refused(monkeypatch):
    network = torch.nn.Module()
    maps = [{"reduction": 8, "num_chs": 3, "module": "a"}, {"reduction": 16, "num_chs": 3, "module": "b"}]
    network.feature_info = timm.models.FeatureInfo(maps, (0, 1))
    monkeypatch.setattr(timm_backbone, "_create", lambda name, in_channels: network)
    with pytest.raises(InputError, match=r"with the strides \[8, 16\], but not 4, 32"):
        TimmBackbone("some", ("res2", "res3", "res5"))


def test_the_backbone_of_a_config_has_fpn_levels():
    cfg = load_config(CONFIG, ["MODEL.WEIGHTS", ""])
    backbone = build_timm_fpn_backbone(cfg, IMAGES)
    assert {name: shape.stride for name, shape in backbone.output_shape().items()} == {
        "p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64,
    }  # fmt: skip
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    with pytest.raises(InputError, match="MODEL.BACKBONE.FREEZE_AT is 2"):
        build_timm_fpn_backbone(cfg, IMAGES)
