"""EfficientNet-Lite0 of efficientnet_lite_pytorch has the same features in timm, and other files are refused."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from balanced_lvis.engine.checkpoints.conversion import convert_checkpoint
from balanced_lvis.utils.errors import InputError

timm = pytest.importorskip("timm")

# Kernel size, stride, expansion, output channels and number of blocks of each stage (Tan and Le, ICML 2019, Table 1).
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM = 32


def blocks():
    """Kernel size, stride, expansion, input and output channels of each block."""
    channels = STEM
    for kernel, stride, expansion, out, count in STAGES:
        for index in range(count):
            yield kernel, stride if index == 0 else 1, expansion, channels, out
            channels = out


def random_state():
    generator = torch.Generator().manual_seed(3)
    state = {}

    def convolution(name, out, inputs, kernel):
        state[f"{name}.weight"] = (
            torch.randn(out, inputs, kernel, kernel, generator=generator) / (inputs * kernel**2) ** 0.5
        )

    def normalisation(name, channels):
        state[f"{name}.weight"] = torch.rand(channels, generator=generator) + 0.5
        state[f"{name}.bias"] = torch.randn(channels, generator=generator) / 10
        state[f"{name}.running_mean"] = torch.randn(channels, generator=generator) / 10
        state[f"{name}.running_var"] = torch.rand(channels, generator=generator) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    convolution("_conv_stem", STEM, 3, 3)
    normalisation("_bn0", STEM)
    for index, (kernel, _, expansion, inputs, out) in enumerate(blocks()):
        prefix, hidden = f"_blocks.{index}", inputs * expansion
        if expansion > 1:
            convolution(f"{prefix}._expand_conv", hidden, inputs, 1)
            normalisation(f"{prefix}._bn0", hidden)
        convolution(f"{prefix}._depthwise_conv", hidden, 1, kernel)
        normalisation(f"{prefix}._bn1", hidden)
        convolution(f"{prefix}._project_conv", out, hidden, 1)
        normalisation(f"{prefix}._bn2", out)
    convolution("_conv_head", 1280, 320, 1)
    normalisation("_bn1", 1280)
    state["_fc.weight"], state["_fc.bias"] = torch.zeros(1000, 1280), torch.zeros(1000)
    return state


def features(state, x):
    """The outputs of all blocks."""

    def convolved(name, x, stride=1, groups=1):
        weight = state[f"{name}.weight"]
        padding = []
        for size in reversed(x.shape[2:]):  # as "SAME" in TensorFlow
            total = max((-(-size // stride) - 1) * stride + weight.shape[2] - size, 0)
            padding += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, padding), weight, stride=stride, groups=groups)

    def normalised(name, x):
        parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-3)

    x = F.relu6(normalised("_bn0", convolved("_conv_stem", x, 2)))
    found = []
    for index, (_, stride, expansion, inputs, out) in enumerate(blocks()):
        prefix, start = f"_blocks.{index}", x
        if expansion > 1:
            x = F.relu6(normalised(f"{prefix}._bn0", convolved(f"{prefix}._expand_conv", x)))
        x = F.relu6(normalised(f"{prefix}._bn1", convolved(f"{prefix}._depthwise_conv", x, stride, x.shape[1])))
        x = normalised(f"{prefix}._bn2", convolved(f"{prefix}._project_conv", x))
        x = x + start if stride == 1 and inputs == out else x
        found.append(x)
    return found


def converted(state, folder):
    torch.save(state, folder / "lite.pth")
    return convert_checkpoint(folder / "lite.pth", folder / "converted.pth")


def test_a_converted_network_has_the_same_features(tmp_path):
    from balanced_lvis.modeling import TimmBackbone

    state = random_state()
    done = converted(state, tmp_path)
    backbone = TimmBackbone(done.settings["MODEL.TIMM.NAME"])
    backbone.network.load_state_dict(torch.load(tmp_path / "converted.pth")["model"])
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        ours, theirs = backbone(x), features(state, x)
    last = {4: 2, 8: 4, 16: 10, 32: 15}  # the last block of each stride
    for (name, value), index in itertools.zip_longest(ours.items(), last.values()):
        torch.testing.assert_close(value, theirs[index], rtol=1e-4, atol=1e-4, msg=name)
    assert any("_fc.weight" in name for name in done.dropped)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("_blocks.15._bn2.bias"), "_blocks.15._bn2.bias: missing in the file"),
        (lambda state: state.update({"_blocks.16._bn1.bias": torch.zeros(3)}), "_blocks.16._bn1.bias"),
        (
            lambda state: state.update({"_conv_stem.weight": torch.zeros(40, 3, 3, 3)}),
            "_conv_stem.weight: (40, 3, 3, 3)",
        ),
    ],
)
def test_other_networks_are_refused(change, message, tmp_path):
    state = random_state()
    change(state)
    with pytest.raises(InputError) as error:
        converted(state, tmp_path)
    assert message in str(error.value) and not (tmp_path / "converted.pth").exists()
