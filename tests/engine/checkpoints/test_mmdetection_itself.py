"""
Converted checkpoints against mmdetection, where it is installed: the same detections on the same image.

mmdetection's published configs are built with random weights and few classes. Nothing is downloaded.
"""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from balanced_lvis.config import load_config
from balanced_lvis.engine.checkpoints.conversion import convert_checkpoint
from balanced_lvis.engine.checkpoints.weights import load_for_evaluation
from tests.common import CONFIGS
from tests.reference_mmdetection import random_state

mmdet = pytest.importorskip("mmdet")
pytest.importorskip("mmcv.ops")

K = 40
HEIGHT, WIDTH = 200, 333
SOFTMAX = "lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1"
SEESAW = "seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss-normed-mask_sample1e-3-ms-2x_lvis-v1"


def detector_of(name, outputs):
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules()
    config = Config.fromfile(Path(mmdet.__file__).parent / ".mim" / "configs" / f"{name}.py")
    config.model.backbone.init_cfg = None
    box_head = config.model.roi_head.bbox_head
    box_head.num_classes = config.model.roi_head.mask_head.num_classes = K
    if "num_classes" in box_head.loss_cls:
        box_head.loss_cls.num_classes = K
    detector = MODELS.build(config.model).eval()
    missing = detector.load_state_dict(random_state(K, outputs), strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"roi_head.bbox_head.loss_cls.cum_samples"}
    return detector, config.pretty_text


def their_detections(detector, bgr):
    from mmdet.structures import DetDataSample

    sample = DetDataSample(
        metainfo={"img_shape": (HEIGHT, WIDTH), "ori_shape": (HEIGHT, WIDTH), "scale_factor": (1.0, 1.0)}
    )
    with torch.no_grad():
        data = detector.data_preprocessor({"inputs": [bgr], "data_samples": [sample]}, False)
        return detector.predict(data["inputs"], data["data_samples"])[0].pred_instances


@pytest.mark.parametrize(
    ("name", "outputs", "config"),
    [(SOFTMAX, K + 1, "mmdetection/r50_softmax"), (SEESAW, K + 2, "mmdetection/r50_seesaw")],
)
def test_it_finds_the_same_objects(name, outputs, config, tmp_path):
    detector, text = detector_of(name, outputs)
    small = torch.randint(0, 256, (1, 3, 12, 16)).float()
    bgr = torch.nn.functional.interpolate(small, (HEIGHT, WIDTH), mode="bicubic")[0].clamp(0, 255).round().byte()
    classifier, logits = detector.roi_head.bbox_head.fc_cls, []
    with classifier.register_forward_hook(lambda module, inputs, output: logits.append(output)):
        their_detections(detector, bgr)
    classifier.bias.data -= logits[0].mean(0)  # so that no class is that of most RoIs
    expected = their_detections(detector, bgr)
    expected = expected[(expected.bboxes[:, 2:] > expected.bboxes[:, :2]).all(1)]  # as Detectron2 does at the end
    torch.save({"state_dict": detector.state_dict(), "meta": {"config": text}}, tmp_path / "a.pth")
    convert_checkpoint(tmp_path / "a.pth", tmp_path / "b.pth")
    opts = ["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", K]
    model = build_model(load_config(CONFIGS / f"{config}.yaml", opts)).eval()
    load_for_evaluation(model, str(tmp_path / "b.pth"))
    with torch.no_grad():
        found = model([{"image": bgr.flip(0), "height": HEIGHT, "width": WIDTH}])[0]["instances"]
    assert len(expected) == len(found) > 250 and len(expected.labels.unique()) > 5
    assert torch.equal(found.pred_classes, expected.labels)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.bboxes, rtol=1e-4, atol=1e-2)
    assert (found.pred_masks != expected.masks).float().mean() < 1e-5
    assert expected.masks.any(dim=(1, 2)).float().mean() > 0.5
