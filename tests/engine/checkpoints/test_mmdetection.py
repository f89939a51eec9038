"""Checkpoints of mmdetection find the same objects here, and what can't be converted is refused."""

import pytest
import torch
from detectron2.modeling import build_model

from balanced_lvis.config import load_config
from balanced_lvis.data.annotations.class_names import class_names_of
from balanced_lvis.engine.checkpoints.checkpoint_file import read_checkpoint
from balanced_lvis.engine.checkpoints.checkpointer import Checkpointer
from balanced_lvis.engine.checkpoints.conversion import convert_checkpoint
from balanced_lvis.engine.checkpoints.identity import Identity
from balanced_lvis.engine.checkpoints.mmdetection import convert_mmdetection
from balanced_lvis.engine.checkpoints.mmdetection_config import parse_config
from balanced_lvis.engine.checkpoints.weights import load_for_evaluation
from balanced_lvis.utils.errors import InputError
from tests.common import CONFIGS, load_tool
from tests.reference_mmdetection import Detector, random_state, shapes

K = 5
HEIGHT, WIDTH = 100, 150  # padded to 128 x 160
MOST = 120, 60  # proposals and detections; fewer than in the configs, for speed
NAMES = tuple(f"class {i}" for i in range(K))

VERSION_3 = """
model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
                           bgr_to_rgb=True, pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=50, norm_cfg=dict(type='BN', requires_grad=True), style='pytorch'),
    rpn_head=dict(anchor_generator=dict(scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64])),
    roi_head=dict(bbox_head=dict(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False)),
                  mask_head=dict(type='FCNMaskHead')))
launcher = 'none'
"""
VERSION_2 = """
model = dict(type='MaskRCNN', backbone=dict(type='ResNet', style='caffe'), pretrained=None)
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
data = dict(train=dict(times=-1, pipeline=[dict(type='Normalize', **{'a': 1})]), n=len([1]))
"""
SEESAW = """
model = dict(type='MaskRCNN', roi_head=dict(
    bbox_head=dict(cls_predictor_cfg=dict(type='NormedLinear', tempearture=20), loss_cls=dict(type='SeesawLoss')),
    mask_head=dict(predictor_cfg=dict(type='NormedConv2d', tempearture=20))))
"""


def empty(num_classes=K, num_outputs=K + 1, **changes):
    """A complete state without memory."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes(num_classes, num_outputs).items()} | changes


def config_of(name):
    opts = {"MODEL.DEVICE": "cpu", "MODEL.ROI_HEADS.NUM_CLASSES": K}
    opts |= {"MODEL.RPN.POST_NMS_TOPK_TEST": MOST[0], "TEST.DETECTIONS_PER_IMAGE": MOST[1]}
    return load_config(CONFIGS / f"{name}.yaml", [word for pair in opts.items() for word in pair])


def bgr_image():
    small = torch.randint(0, 256, (1, 3, 8, 12), generator=torch.Generator().manual_seed(1)).float()
    return torch.nn.functional.interpolate(small, (HEIGHT, WIDTH), mode="bicubic")[0].clamp(0, 255).round()


@pytest.fixture(scope="module")
def expected():
    """The weights, and the features and proposals of :func:`bgr_image`."""
    state = random_state(K, K + 1)
    detector = Detector(state, K, most=MOST)
    with torch.no_grad():
        levels = detector.features(detector.images(bgr_image()))
        boxes, scores = detector.proposals(levels, HEIGHT, WIDTH)
        detector.centre_logits_(levels, boxes)
    return {"state": state, "levels": levels, "boxes": boxes, "scores": scores}


@pytest.fixture(scope="module")
def state(expected):
    return expected["state"]


@pytest.fixture(scope="module")
def converted(state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mmdetection")
    meta = {"CLASSES": NAMES, "config": VERSION_3}
    torch.save({"state_dict": state, "meta": meta, "optimizer": {}}, folder / "a.pth")
    done = convert_checkpoint(folder / "a.pth", folder / "converted.pth")
    return folder / "converted.pth", done


def loaded(path, config):
    cfg = config_of(config)
    model = build_model(cfg).eval()
    load_for_evaluation(model, str(path), Identity.of_model(cfg, NAMES, ""))
    return model


@pytest.fixture(scope="module")
def model(converted):
    return loaded(converted[0], "mmdetection/r50_softmax")


def run(model):
    """Features, proposals and detections before masks are pasted."""
    batch = [{"image": bgr_image().flip(0), "height": HEIGHT, "width": WIDTH}]
    with torch.no_grad():
        images = model.preprocess_image(batch)
        features = model.backbone(images.tensor)
        (proposals,), _ = model.proposal_generator(images, features)
        (found,) = model.inference(batch, do_postprocess=False)
    return list(features.values()), proposals, found


def assert_same_detections(found, detector, levels, boxes):
    with torch.no_grad():
        expected, scores, classes = detector.detections(levels, boxes, HEIGHT, WIDTH)
        masks = detector.masks(levels, expected, classes)
    assert len(scores) == MOST[1] and len(classes.unique()) == K and scores[0] > 1.1 * scores[-1]
    # Nearly equal scores may be in another order: each detection is compared with that of the most similar box.
    found_boxes, other_class = found.pred_boxes.tensor, found.pred_classes != classes[:, None]
    match = ((found_boxes - expected[:, None]).abs().amax(2) + 1e6 * other_class).argmin(1)
    assert len(found) == len(match.unique()) == len(match) and (match - torch.arange(len(match))).abs().max() < 5
    found = found[match]
    assert torch.equal(found.pred_classes, classes)
    torch.testing.assert_close(found.scores, scores, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.pred_boxes.tensor, expected, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(found.pred_masks[:, 0], masks, rtol=1e-3, atol=1e-4)
    assert masks.std() > 0.1


def test_features_proposals_detections_and_masks_are_those_of_mmdetections_definitions(model, state, expected):
    features, proposals, found = run(model)
    for ours, theirs in zip(features, expected["levels"]):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
    assert len(features) == len(expected["levels"]) == 5
    assert len(proposals) == len(expected["boxes"]) == MOST[0]
    torch.testing.assert_close(proposals.objectness_logits.sigmoid(), expected["scores"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(proposals.proposal_boxes.tensor, expected["boxes"], rtol=1e-4, atol=1e-2)
    assert_same_detections(found, Detector(state, K, most=MOST), expected["levels"], expected["boxes"])


def test_seesaw_with_its_normalized_layers_and_objectness_finds_the_same(state, expected, tmp_path):
    extra = random_state(K, K + 2, seed=5)
    name = "roi_head.bbox_head."
    other = {**state, **{key: value for key, value in extra.items() if key.startswith(f"{name}fc_cls.")}}
    other[f"{name}loss_cls.cum_samples"] = torch.arange(K + 1.0) * 1000
    detector = Detector(other, K, seesaw=True, normed_mask=True, most=MOST)
    with torch.no_grad():
        detector.centre_logits_(expected["levels"], expected["boxes"])
    torch.save({"state_dict": other, "meta": {"CLASSES": NAMES, "config": SEESAW}}, tmp_path / "a.pth")
    done = convert_checkpoint(tmp_path / "a.pth", tmp_path / "b.pth")
    assert (done.num_classes, done.family) == (K, "seesaw")
    model = loaded(tmp_path / "b.pth", "mmdetection/r50_seesaw")
    assert model.roi_heads.box_predictor.activation.seen.tolist() == [1000 * i for i in range(K)]
    assert_same_detections(run(model)[2], detector, expected["levels"], expected["boxes"])
    with pytest.raises(InputError, match=r"MODEL.ROI_MASK_HEAD.TEMPERATURE 20"):
        loaded(tmp_path / "b.pth", "r50_seesaw_linear_mask")


@pytest.mark.parametrize(("predictor", "temperature"), [("NormedConv2d", 20.0), ("Conv", 0.0)])
def test_the_mask_predictor_of_seesaw_is_that_of_the_config_in_the_file(predictor, temperature):
    config = SEESAW.replace("NormedConv2d", predictor)
    settings = convert_mmdetection("a.pth", empty(num_outputs=K + 2), {"cfg": config}).settings
    assert settings["MODEL.ROI_MASK_HEAD.TEMPERATURE"] == temperature
    assert (
        "MODEL.ROI_MASK_HEAD.TEMPERATURE" not in convert_mmdetection("a.pth", empty(num_outputs=K + 2), None).settings
    )


def test_what_is_kept_and_left_out_is_reported(converted):
    path, done = converted
    assert done.dropped == ["53 of num_batches_tracked", "meta", "optimizer"]
    assert (done.num_classes, done.family, done.class_names) == (K, "softmax", list(NAMES))
    assert done.settings["INPUT.FORMAT"] == "RGB" and done.settings["MODEL.RESNETS.DEPTH"] == 50
    assert Identity.read(read_checkpoint(path), "")  # native from now on


def test_a_converted_file_can_be_converted_again_with_its_settings(converted, tmp_path):
    again = convert_checkpoint(converted[0], tmp_path / "again.pkl")
    assert again.settings == converted[1].settings
    assert read_checkpoint(tmp_path / "again.pkl")["settings"] == again.settings


# ------------------------------------------------------------------ images


def test_a_config_with_other_images_or_strides_is_refused_in_evaluation(converted):
    with pytest.raises(InputError, match="its results are wrong") as error:
        loaded(converted[0], "r50_rfs_softmax")
    for override in ("INPUT.FORMAT RGB", 'PIXEL_MEAN "[123.675, ', 'PIXEL_STD "[58.395, ', "STRIDE_IN_1X1 False"):
        assert override in str(error.value)


def test_in_training_it_is_a_warning(converted, caplog):
    model = build_model(config_of("r50_rfs_softmax"))
    Checkpointer(model).load(str(converted[0]))
    assert "trained with other settings" in caplog.text


def test_a_file_that_was_not_converted_is_refused(state, tmp_path, model):
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="balanced-lvis convert INPUT OUTPUT"):
        Checkpointer(model).load(str(tmp_path / "a.pth"))


@pytest.mark.parametrize(
    ("config", "format_", "mean", "stride_in_1x1"),
    [
        (VERSION_3, "RGB", 123.675, False),
        (VERSION_2, "BGR", 103.53, True),
        (VERSION_3.replace("bgr_to_rgb=True, ", ""), "BGR", 123.675, False),  # the default of version 3
        ("", "RGB", 123.675, False),
        ("model = dict(", "RGB", 123.675, False),
    ],
)
def test_images_and_strides_are_those_of_the_config_in_the_file(config, format_, mean, stride_in_1x1):
    found = convert_mmdetection("a.pth", empty(), {"cfg": config} if config else None)
    settings = found.settings
    assert (settings["INPUT.FORMAT"], settings["MODEL.PIXEL_MEAN"][0]) == (format_, mean)
    assert settings["MODEL.RESNETS.STRIDE_IN_1X1"] is stride_in_1x1
    reason = "" if "type" in config else "can't be parsed" if config else "assumed, as the file has no config"
    assert reason in found.steps[1] and ("assumed" in found.steps[1]) == bool(reason)


def test_the_config_is_parsed_without_being_run():
    found = parse_config("a = dict(b=[1, -2.5], c=(None, 'x'))\nd = {'e': print('run')}\nimport os\nx.y = 1")
    assert found == {"a": {"b": [1, -2.5], "c": [None, "x"]}, "d": {"e": "print('run')"}}
    assert convert_mmdetection(
        "a.pth", empty(), {"cfg": f"{VERSION_2}\nimg_norm_cfg = dict(mean=[1, 2, {10**400}])"}
    ).settings
    for text in ("a = (", "(" * 5000, "x" * (1 << 21)):
        with pytest.raises(ValueError):
            parse_config(text)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("scales=[8]", "scales=[4]", r"anchor_generator.scales = \[4\]; only \[8\]"),
        ("'MaskRCNN'", "'MaskScoringRCNN'", "'MaskScoringRCNN'; only 'MaskRCNN' and 'FasterRCNN'"),
        ("'CrossEntropyLoss'", "'SeesawLoss'", "loss_cls.type = 'SeesawLoss'"),
        ("use_sigmoid=False", "use_sigmoid=True", "use_sigmoid = True"),
        ("bbox_head=dict(", "bbox_head=dict(cls_predictor_cfg=dict(type='NormedLinear'), ", "'NormedLinear'"),
        ("bbox_head=dict(", "bbox_head=dict(bbox_coder=dict(target_stds=[0.05, 0.05, 0.1, 0.1]), ", "target_stds"),
        ("scales=[8]", "octave_base_scale=4, scales_per_octave=3", "octave_base_scale = 4; only None"),
        ("scales=[8]", "type='LegacyAnchorGenerator', scales=[8]", "'LegacyAnchorGenerator'"),
        ("bbox_head=dict(", "bbox_head=dict(bbox_coder=dict(type='TBLRBBoxCoder'), ", "'TBLRBBoxCoder'"),
        (
            "bbox_head=dict(",
            "bbox_head=dict(bbox_coder=dict(ctr_clamp=32, add_ctr_clamp=True), ",
            "add_ctr_clamp = True",
        ),
        ("bbox_head=dict(", "bbox_head=dict(reg_predictor_cfg=dict(type='NormedLinear'), ", "'NormedLinear'"),
        ("roi_head=dict(", "roi_head=dict(bbox_roi_extractor=dict(featmap_strides=[4, 8, 16]), ", "featmap_strides"),
        (
            "roi_head=dict(",
            "roi_head=dict(bbox_roi_extractor=dict(type='GenericRoIExtractor'), ",
            "GenericRoIExtractor",
        ),
        ("roi_head=dict(", "roi_head=dict(mask_roi_extractor=dict(roi_layer=dict(output_size=7)), ", "output_size = 7"),
        ("roi_head=dict(", "roi_head=dict(mask_roi_extractor=None, ", "mask_roi_extractor = None"),
        ("depth=50", "depth=50, strides=(1, 2, 2, 1)", "strides"),
        ("depth=50", "depth=50, conv_cfg=dict(type='ConvWS')", "ConvWS"),
        ("rpn_head=dict(", "neck=dict(type='FPN', act_cfg=dict(type='ReLU')), rpn_head=dict(", "act_cfg"),
        ("rpn_head=dict(", "test_cfg=dict(rcnn=dict(nms=dict(type='soft_nms'))), rpn_head=dict(", "'soft_nms'"),
        ("depth=50", "depth=50, unheard_of=1", "unheard_of = 1, which published configs don't have"),
    ],
)
def test_configs_of_models_that_detectron2_would_compute_differently_are_refused(old, new, words):
    with pytest.raises(InputError, match=words):
        convert_mmdetection("a.pth", empty(), {"config": VERSION_3.replace(old, new)})


# The parts of mmdetection 2.28's and 3.3's base config, and of the oldest configs of version 2.
PUBLISHED = """
model = dict(
    type='mmdet.MaskRCNN',
    pretrained=None,
    backbone=dict(type='ResNeXt', depth=50, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1, groups=1,
                  norm_cfg=dict(type='BN', requires_grad=True), norm_eval=True, style='pytorch', base_width=4,
                  init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5),
    rpn_head=dict(type='RPNHead', in_channels=256, feat_channels=256,
        anchor_generator=dict(type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[.0, .0, .0, .0], target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
    roi_head=dict(type='StandardRoIHead',
        bbox_roi_extractor=dict(type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', out_size=7, sample_num=0),
                                out_channels=256, featmap_strides=[4, 8, 16, 32]),
        bbox_head=dict(type='Shared2FCBBoxHead', in_channels=256, fc_out_channels=1024, roi_feat_size=7, num_classes=5,
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0, 0, 0, 0], target_stds=[0.1, 0.1, 0.2, 0.2]),
            reg_class_agnostic=False, loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
        mask_roi_extractor=dict(type='SingleRoIExtractor', out_channels=256, featmap_strides=[4, 8, 16, 32],
                                roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0)),
        mask_head=dict(type='FCNMaskHead', num_convs=4, in_channels=256, conv_out_channels=256, num_classes=5,
                       loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0))),
    train_cfg=dict(rpn=dict(assigner=dict(type='MaxIoUAssigner'), allowed_border=-1)))
test_cfg = dict(
    rpn=dict(nms_across_levels=False, nms_pre=1000, nms_post=1000, max_num=1000, nms_thr=0.7, min_bbox_size=0),
    rcnn=dict(score_thr=0.0001, nms=dict(type='nms', iou_threshold=0.5), max_per_img=300, mask_thr_binary=0.5))
data_preprocessor = dict(type='DetDataPreprocessor', mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], pad_mask=True)
"""


def test_published_configs_are_converted_and_images_may_be_described_outside_the_model():
    settings = convert_mmdetection("a.pth", empty(), {"config": PUBLISHED}).settings
    assert (settings["MODEL.PIXEL_MEAN"], settings["INPUT.FORMAT"]) == ([1.0, 2.0, 3.0], "BGR")
    no_masks = PUBLISHED.replace("mask_head=dict(", "mask_head=None, init_cfg=dict(")
    boxes_only = {name: value for name, value in empty().items() if "mask_head" not in name}
    assert convert_mmdetection("a.pth", boxes_only, {"config": no_masks}).settings["MODEL.MASK_ON"] is False


# ------------------------------------------------------------------ classes


def test_mmdetections_spelling_of_lvis_classes_is_that_of_the_annotations():
    names = class_names_of("lvis_v1_train")
    respelt = {"horned_cow": "bull", "speaker_(stero_equipment)": "speaker_(stereo_equipment)"}
    theirs = [respelt.get(name, name) for name in names]
    assert theirs != names
    versions = [{"CLASSES": tuple(theirs)}, *({"dataset_meta": {key: theirs}} for key in ("CLASSES", "classes"))]
    for meta in versions:
        assert convert_mmdetection("a.pth", empty(1203, 1204), meta).class_names == names
    assert convert_mmdetection("a.pth", empty(1, 2), {"CLASSES": ("bull",)}).class_names == ["bull"]
    with pytest.raises(InputError, match="2 classes have the name 'a'"):
        convert_mmdetection("a.pth", empty(2, 3), {"CLASSES": ("a", "a")})


def agnostic(**changes):
    state = empty(**changes)
    for name, size in (("bbox_head.fc_reg", 4), ("mask_head.conv_logits", 1)):
        for part in ("weight", "bias"):
            state[f"roi_head.{name}.{part}"] = state[f"roi_head.{name}.{part}"][:1].expand(
                size, *state[f"roi_head.{name}.{part}"].shape[1:]
            )
    return state


def test_class_agnostic_heads_and_faster_r_cnn():
    settings = convert_mmdetection("a.pth", agnostic(), None, num_classes=K).settings
    assert settings["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"] and settings["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"]
    with pytest.raises(InputError, match="--num-classes"):
        convert_mmdetection("a.pth", agnostic(), None)
    boxes_only = {name: value for name, value in empty().items() if "mask_head" not in name}
    assert convert_mmdetection("a.pth", boxes_only, None).settings["MODEL.MASK_ON"] is False


# ------------------------------------------------------------------ what is refused

ONE = torch.zeros(1)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"backbone.conv1.weight": ONE, "bbox_head.fc_cls.weight": ONE, "neck.x": ONE}, "mmdetection 1"),
        ({"neck.x": ONE, "bbox_head.0.fc_cls.weight": ONE}, "mmdetection 1"),
        ({"neck.x": ONE, "roi_head.bbox_head.0.fc_cls.weight": ONE}, "Cascade R-CNN or HTC"),
        ({"neck.x": ONE, "bbox_head.retina_cls.weight": ONE}, "only Mask and Faster R-CNN"),
        (empty(**{"backbone.layer2.0.conv2_offset.weight": ONE}), "(?s)can't be converted:.*conv2_offset.weight"),
        (empty(**{"roi_head.mask_iou_head.fc.weight": ONE}), "(?s)can't be converted:.*mask_iou_head"),
        (empty(**{"neck.fpn_convs.4.conv.weight": ONE}), "fpn_convs.4.conv.weight: in the file, not part of the model"),
        (empty(**{"rpn_head.rpn_cls.weight": torch.zeros(9, 256, 1, 1)}), r"\(9, 256, 1, 1\) in the file, \(3,"),
        (empty(**{"roi_head.bbox_head.fc_cls.weight": torch.zeros(())}), "classifier of 0 outputs"),
        (empty(num_outputs=K), "classifier of 5 outputs for 5 classes; those of mmdetection have 6, or 7"),
        ({k: v for k, v in empty().items() if "lateral_convs.3" not in k}, "neck.lateral_convs.3.conv.weight: miss"),
        ({k: v for k, v in empty().items() if "layer3.5" not in k}, "3, 4, 5, 3 bottleneck blocks"),
    ],
)  # fmt: skip
def test_other_detectors_and_incomplete_files_are_refused(state, words):
    with pytest.raises(InputError, match=words):
        convert_mmdetection("a.pth", state, None)


def test_the_tool_says_which_settings_the_weights_need(state, tmp_path, capsys):
    torch.save({"state_dict": state, "meta": {"CLASSES": NAMES}}, tmp_path / "a.pth")
    assert load_tool("convert_checkpoint").main([str(tmp_path / "a.pth"), str(tmp_path / "b.pth")]) == 0
    out = capsys.readouterr().out
    assert "settings: INPUT.FORMAT RGB MODEL.PIXEL_MEAN" in out and "assumed, as the file has no config" in out
    assert "5 classes, class names written; softmax; 307 tensors" in out
