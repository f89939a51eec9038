import pytest
import torch

from balanced_lvis.activations import build_activation
from balanced_lvis.classification.config import default_config
from balanced_lvis.classification.model import build_model
from balanced_lvis.classification.networks import NETWORKS, CifarResNet
from balanced_lvis.utils.errors import InputError


def test_resnet32_has_as_many_parameters_and_layers_as_in_the_paper():
    network = NETWORKS.build("resnet32")
    layers = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    parameters = sum(p.numel() for p in network.parameters()) + 64 * 10 + 10
    assert len(layers) == 31 and network.out_features == 64
    assert parameters == 464_154  # 0.46 million with the classifier of CIFAR-10


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("size", [28, 32, 64])
def test_features_have_the_declared_size_for_any_image(name, size):
    network = NETWORKS.build(name)
    assert network(torch.zeros(2, 3, size, size)).shape == (2, network.out_features)


def test_pixels_are_normalized_and_the_classifier_is_that_of_the_activation():
    cfg = default_config()
    cfg.MODEL.NETWORK.NAME = "resnet8"
    cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = [10.0, 20.0, 30.0], [2.0, 4.0, 5.0]
    model = build_model(cfg, 7).eval()
    seen = []
    model.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert model(images).shape == (2, 7)
    for c, (mean, std) in enumerate(zip((10, 20, 30), (2, 4, 5))):
        assert torch.allclose(seen[0][:, c], (images[:, c].float() - mean) / std)
    cfg.MODEL.ACTIVATION.NAME = "ldam"
    assert type(build_model(cfg, 7).classifier) is type(build_activation("ldam", 7, background=False).classifier(4))


def test_a_calibration_must_fit_and_invalid_options_are_errors():
    cfg = default_config()
    with pytest.raises(InputError, match="WIDTH of MODEL.NETWORK is 0"):
        NETWORKS.build("resnet8", width=0)
    with pytest.raises(InputError, match=r"depth is 10; it must be 6n\+2"):
        CifarResNet(10, 16, 1)
    cfg.MODEL.CALIBRATION.NAME = "nothing"
    with pytest.raises(InputError, match="Unknown calibration 'nothing'"):
        build_model(cfg, 3)
    with pytest.raises(InputError, match="Unknown network 'resnet50'"):
        NETWORKS.build("resnet50")
