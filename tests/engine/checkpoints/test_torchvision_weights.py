"""ResNets of torchvision and timm have the same features here, and other files are refused."""

import pickle

import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import build_resnet_backbone
from torch import nn

from balanced_lvis.config import default_config, load_config
from balanced_lvis.engine.checkpoints.checkpoint_file import read_checkpoint
from balanced_lvis.engine.checkpoints.checkpointer import Checkpointer
from balanced_lvis.engine.checkpoints.conversion import convert_checkpoint
from balanced_lvis.engine.checkpoints.resnets import convert_resnet
from balanced_lvis.engine.checkpoints.settings import KEY, TORCHVISION, contradicted, in_words, read_settings
from balanced_lvis.utils.errors import InputError
from tests.common import CONFIGS, load_tool

IMAGES = [CONFIGS / "r50_rfs.yaml", CONFIGS / "base" / "torchvision_weights.yaml"]


def random_resnet(name, build=None):
    """With random batch statistics, as those of a new one are 0 and 1."""
    net = (build or getattr(torchvision.models, name))(weights=None).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.7)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.7, 1.5)
    return net


def features_of(net, x):
    """Of the four stages of torchvision's or timm's."""
    x = net.maxpool(torch.relu(net.bn1(net.conv1(x))))
    found = []
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = stage(x)
        found.append(x)
    return found


def converted(net, folder, suffix="pth"):
    torch.save(net.state_dict(), folder / "resnet.pth")
    return convert_checkpoint(folder / "resnet.pth", folder / f"converted.{suffix}"), folder / f"converted.{suffix}"


def assert_same_features(ours, theirs):
    assert len(ours) == len(theirs) == 4
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def backbone_with(settings):
    cfg = default_config()
    cfg.merge_from_list([word for pair in settings.items() for word in pair])
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    return build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("resnet18", {"DEPTH": 18, "RES2_OUT_CHANNELS": 64}),
        ("resnet34", {"DEPTH": 34, "RES2_OUT_CHANNELS": 64}),
        ("resnet50", {"DEPTH": 50}),
        ("resnet101", {"DEPTH": 101}),
        ("resnext50_32x4d", {"DEPTH": 50, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4}),
        ("wide_resnet50_2", {"DEPTH": 50, "NUM_GROUPS": 1, "WIDTH_PER_GROUP": 128}),
    ],
)
def test_a_converted_backbone_has_torchvisions_features(name, architecture, tmp_path):
    net = random_resnet(name)
    done, path = converted(net, tmp_path)
    found = {key.removeprefix("MODEL.RESNETS."): value for key, value in done.settings.items() if "RESNETS" in key}
    assert found == {**architecture, **({} if "RES2_OUT_CHANNELS" in architecture else {"STRIDE_IN_1X1": False})}
    assert done.num_classes == 0 and done.dropped[:2] == ["fc.weight", "fc.bias"]
    backbone = backbone_with(done.settings)
    incompatible = Checkpointer(backbone).load(str(path))
    assert incompatible[KEY] == done.settings
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert_same_features(list(backbone(x).values()), features_of(net, x))


def test_it_has_timms_features(tmp_path):
    timm = pytest.importorskip("timm")
    net = random_resnet("resnet50", lambda weights: timm.create_model("resnet50", pretrained=False))
    done, path = converted(net, tmp_path)
    backbone = backbone_with(done.settings)
    Checkpointer(backbone).load(str(path))
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        theirs = net.forward_intermediates(x, intermediates_only=True)[1:]
        assert_same_features(list(backbone(x).values()), theirs)


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory):
    torch.manual_seed(0)
    net = random_resnet("resnet50")
    return net, converted(net, tmp_path_factory.mktemp("resnet50"))[1]


def yaml(tmp_path, *bases):
    path = tmp_path / "config.yaml"
    path.write_text(f"_BASE_: {list(map(str, bases))}\nMODEL: {{DEVICE: cpu, ROI_HEADS: {{NUM_CLASSES: 3}}}}\n")
    return load_config(path)


def test_a_detector_with_the_base_config_sees_images_as_torchvision_does(resnet50, tmp_path, caplog):
    net, path = resnet50
    model = build_model(yaml(tmp_path, *IMAGES)).eval()
    Checkpointer(model).load(str(path))
    assert "trained with other settings" not in caplog.text
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)  # RGB, the format of the config
    normalize = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        ours = model.backbone.bottom_up(model.preprocess_image([{"image": image}]).tensor)
        assert_same_features(list(ours.values()), features_of(net, normalize(image[None] / 255)))


def test_detectron2s_own_checkpointer_loads_both_formats(resnet50, tmp_path):
    net, path = resnet50
    convert_checkpoint_again = converted(net, tmp_path, "pkl")[1]
    for file in (path, convert_checkpoint_again):
        backbone = backbone_with({})
        DetectionCheckpointer(backbone).load(str(file))
        for name, value in read_checkpoint(file)["model"].items():
            assert torch.equal(backbone.state_dict()[name], value), name
    with open(convert_checkpoint_again, "rb") as opened:
        assert pickle.load(opened)["matching_heuristics"]


def test_a_training_with_other_images_is_warned(resnet50, tmp_path, caplog):
    model = build_model(yaml(tmp_path, IMAGES[0]))
    Checkpointer(model).load(str(resnet50[1]))
    assert "INPUT.FORMAT RGB" in caplog.text and "STRIDE_IN_1X1 False" in caplog.text


def test_a_file_that_was_not_converted_is_refused(resnet50, tmp_path):
    torch.save(resnet50[0].state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(InputError, match="balanced-lvis convert INPUT OUTPUT"):
        Checkpointer(backbone_with({})).load(str(tmp_path / "resnet.pth"))
    holder = nn.Module()  # a model of one's own with these names loads it
    holder.layer1 = resnet50[0].layer1
    Checkpointer(holder).load(str(tmp_path / "resnet.pth"))


def test_the_base_config_has_the_settings_of_the_converter():
    cfg = load_config(IMAGES[1])
    found = {"INPUT.FORMAT": cfg.INPUT.FORMAT, "MODEL.PIXEL_MEAN": cfg.MODEL.PIXEL_MEAN}
    found |= {"MODEL.PIXEL_STD": cfg.MODEL.PIXEL_STD, "MODEL.RESNETS.STRIDE_IN_1X1": cfg.MODEL.RESNETS.STRIDE_IN_1X1}
    assert found == TORCHVISION
    for number, mean, std in zip(range(3), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)):
        assert TORCHVISION["MODEL.PIXEL_MEAN"][number] == pytest.approx(255 * mean)
        assert TORCHVISION["MODEL.PIXEL_STD"][number] == pytest.approx(255 * std)


# ------------------------------------------------------------------ what is refused


@pytest.fixture(scope="module")
def state():
    with torch.device("meta"):
        return torchvision.models.resnet50(weights=None).state_dict()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer3.5.conv2.weight": None}, "  layer3.5.conv2.weight: missing in the file"),
        (
            {"layer3.1.bn2.running_var": None, "layer4.0.downsample.1.bias": None},
            r"(?s)bn2.running_var.*downsample.1.bias",
        ),
        ({"conv1.weight": None, "conv1.0.weight": (32, 3, 3, 3)}, "(?s)can't be converted:.*conv1.0.weight"),
        ({"layer1.0.se.fc1.weight": (8, 256, 1, 1)}, "(?s)can't be converted:.*layer1.0.se.fc1.weight"),
        ({"layer1.0.downsample.2.weight": (256,)}, "(?s)can't be converted:.*downsample.2.weight"),
        ({"layer2.0.conv1.weight": (64, 256, 1, 1)}, r"2.0.conv1.weight: \(64, 256, 1, 1\) in the file, \(128"),
        ({"layer2.4.conv1.weight": (128, 512, 1, 1)}, "3, 5, 6, 3 bottleneck blocks"),
        ({"layer1.0.conv2.weight": (64, 0, 3, 3)}, r"\(64, 0, 3, 3\) in the file, \(64, 64, 3, 3\)"),
        ({"layer1.0.conv2.weight": (0,)}, r"\(0,\) in the file"),
    ],
)
def test_what_is_missing_or_too_much_is_named(state, change, words):
    changed = {name: value for name, value in state.items() if change.get(name, ()) is not None}
    changed |= {name: torch.zeros(shape) for name, shape in change.items() if shape is not None}
    with pytest.raises(InputError, match=words):
        convert_resnet("resnet.pth", changed)


def test_a_backbone_has_no_classes(resnet50, tmp_path):
    torch.save(resnet50[0].state_dict(), tmp_path / "resnet.pth")
    for options in ({"num_classes": 3}, {"family": "softmax"}, {"layout": "no_background"}):
        with pytest.raises(InputError, match="a backbone, which has no classes"):
            convert_checkpoint(tmp_path / "resnet.pth", tmp_path / "b.pth", **options)
    assert not (tmp_path / "b.pth").exists()


def test_files_of_training_scripts_are_read(resnet50, tmp_path, capsys):
    """torchvision's have the weights under "model", timm's under "state_dict", and both may be of a wrapped model."""
    wrapped = {f"module.{name}": value for name, value in resnet50[0].state_dict().items()}
    for key in ("model", "state_dict"):
        torch.save({key: wrapped, "epoch": 3, "optimizer": {}}, tmp_path / "a.pth")
        assert load_tool("convert_checkpoint").main([str(tmp_path / "a.pth"), str(tmp_path / "b.pth")]) == 0
        out = capsys.readouterr().out
        assert "removed 'module.'" in out and "ResNet-50 of torchvision or timm" in out
        assert "left out: fc.weight, fc.bias, 53 of num_batches_tracked, epoch, optimizer" in out
        assert 'settings: INPUT.FORMAT RGB MODEL.PIXEL_MEAN "[123.675, 116.28, 103.53]"' in out
        assert "a backbone; 265 tensors" in out


@pytest.mark.parametrize("prefix", ["model.", "backbone.", "module.model."])
def test_a_resnet_that_is_a_part_of_a_training_program_is_found(resnet50, tmp_path, prefix):
    state = {f"{prefix}{name}": value for name, value in resnet50[0].state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    done = convert_checkpoint(tmp_path / "a.pth", tmp_path / "b.pth")
    assert done.num_tensors == 265 and done.steps[-2].startswith("removed")


def test_which_weights_are_read_is_reported_if_there_are_averages(resnet50, tmp_path):
    plain = resnet50[0].state_dict()
    averaged = {f"module.{name}": torch.full_like(value, 2) for name, value in plain.items()}
    for content, words, read in (
        ({"state_dict": plain, "state_dict_ema": averaged}, "own weights, not those of 'state_dict_ema'", plain),
        ({"model_ema": averaged, "epoch": 3}, "weights of 'model_ema', a moving average", {"conv1.weight": 2}),
    ):
        torch.save(content, tmp_path / "a.pth")
        done = convert_checkpoint(tmp_path / "a.pth", tmp_path / "b.pth")
        assert words in done.steps[0]
        assert (read_checkpoint(tmp_path / "b.pth")["model"]["stem.conv1.weight"] == read["conv1.weight"]).all()


# ------------------------------------------------------------------ settings


def test_invalid_settings_in_a_file_are_refused():
    for settings, words in (
        ([1], "not a dict"),
        ({1: 2}, "not a dict"),
        ({"A": {}}, "A is a dict"),
        ({"A": [{}]}, "A"),
    ):
        with pytest.raises(InputError, match=words):
            read_settings({KEY: settings}, "a.pth")
    assert read_settings({}, "a.pth") == {}
    assert in_words({"A.B": [1.0, 0.5], "C": False}) == 'A.B "[1, 0.5]" C False'


def test_settings_that_a_model_can_not_tell_are_not_compared():
    assert contradicted({**TORCHVISION, "SOMETHING.ELSE": 3}, nn.Linear(1, 1)) == {}


def test_settings_of_another_type_than_the_models_contradict_it():
    model = nn.Module()
    model.register_buffer("pixel_mean", torch.zeros(3, 1, 1))
    for value in ([0.0, 0.0], "RGB", ["a", "b", "c"], 0.0):
        assert contradicted({"MODEL.PIXEL_MEAN": value}, model) == {"MODEL.PIXEL_MEAN": value}
    assert contradicted({"MODEL.PIXEL_MEAN": [0, 0.0, 0]}, model) == {}
