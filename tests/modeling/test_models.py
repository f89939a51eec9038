"""Whole models: the real LVIS configs, Cascade, and the small one."""

import numpy as np
import pytest
import torch
from detectron2 import model_zoo
from detectron2.data import DatasetMapper, detection_utils
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from balanced_lvis.calibration import calibration_class
from balanced_lvis.calibration.logit_statistics import LogitStatistics
from balanced_lvis.config import load_config
from balanced_lvis.data.config_datasets import register_rendered
from balanced_lvis.data.rendered import RenderedSpec, render_dataset
from balanced_lvis.data.training_prior import class_prior_of_dataset
from balanced_lvis.engine.optimizer import build_optimizer
from balanced_lvis.experiments.methods import METHODS
from balanced_lvis.modeling.box_predictor import ActivationOutputLayers
from benchmarks.trained import calibrate_frozen_norms
from tests.common import CONFIGS, SHARED_DATA, rendered_opts


def training_step(model, batch):
    """Losses, after a backward pass that must reach every trained parameter of the heads."""
    model.train()
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    missing = [n for n, p in model.roi_heads.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    return {name: loss.item() for name, loss in losses.items()}


def infer(model, batch):
    model.eval()
    with torch.no_grad():
        return model([{key: record[key] for key in ("image", "height", "width")} for record in batch])


@pytest.fixture(scope="module")
def photographs():
    """Two real photographs with LVIS-like polygons where the shared data is there, else two rendered images."""
    folder = SHARED_DATA / "coco_tiny"
    if not folder.exists():
        return None
    from pycocotools.coco import COCO

    coco = COCO(folder / "annotations" / "instances_train2017.json")
    records = []
    for image in coco.loadImgs(sorted(coco.imgs)[:8]):
        annotations = [
            {"bbox": a["bbox"], "bbox_mode": 1, "category_id": a["category_id"], "segmentation": a["segmentation"]}
            for a in coco.loadAnns(coco.getAnnIds(image["id"], iscrowd=False))
        ]
        if annotations:
            size = {"height": image["height"], "width": image["width"], "image_id": image["id"]}
            path = str(folder / "train2017" / image["file_name"])
            records.append({"file_name": path, "annotations": annotations, **size})
    return records[:2]


@pytest.fixture(scope="module")
def full_vocabulary(tmp_path_factory):
    """Rendered images with LVIS's 1,203 categories."""
    spec = RenderedSpec(
        num_classes=1203, train_images=4, val_images=2, test_images=1, image_size=(240, 320), objects_per_image=10
    )
    root = render_dataset(spec, tmp_path_factory.mktemp("full") / "rendered", workers=1)
    return root


def mapped(records, cfg, shortest):
    augmentations = detection_utils.build_augmentation(cfg, is_train=True)
    augmentations[0].short_edge_length = (shortest,)
    mapper = DatasetMapper(
        is_train=True, augmentations=augmentations, image_format=cfg.INPUT.FORMAT, use_instance_mask=True
    )
    return [mapper(record) for record in records]


@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, 101])
def test_lvis_models_build_step_and_infer_on_photographs(depth, photographs, full_vocabulary):
    # A tenth of the proposals at test time: NMS over 1.2 million candidates is not what this test is about.
    opts = ["MODEL.DEVICE", "cpu", "MODEL.RPN.POST_NMS_TOPK_TEST", "100"]
    cfg = load_config(CONFIGS / f"r{depth}_balanced_sigmoid.yaml", opts)
    model = build_model(cfg)
    assert model.roi_heads.box_predictor.cls_score.weight.shape == (1204, 1024)
    assert model.roi_heads.mask_head.predictor.weight.shape[0] == 1203
    records = photographs or _rendered_records(full_vocabulary)
    batch = mapped(records, cfg, shortest=192)
    calibrate_frozen_norms(model, batch)
    losses = training_step(model, batch)
    assert losses["loss_cls"] < 30, "1,203 sigmoids must start at the prior probability, not at 0.5"
    out = infer(model, batch[:1])
    assert len(out[0]["instances"]) <= 300


def _only_evaluates(path):
    method = METHODS.get(path.stem.removeprefix("r50_").removeprefix("r101_"))
    return method is not None and method.evaluates_only


LVIS_CONFIGS = sorted(CONFIGS.glob("r*.yaml"))
SMALL_CONFIGS = sorted([*CONFIGS.glob("rendered/**/*.yaml"), *CONFIGS.glob("quick_start/*.yaml")])
EVALUATION_CONFIGS = [path for path in (*LVIS_CONFIGS, *SMALL_CONFIGS) if _only_evaluates(path)]


@pytest.mark.parametrize("path", EVALUATION_CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_for_evaluation_alone_builds_its_predictor(path, tmp_path):
    cfg = load_config(path, ["MODEL.WEIGHTS", str(tmp_path / "model.pth")])
    number = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    LogitStatistics(range(number), [0.0] * number, [1.0] * number, 9).save(tmp_path / "model.logits.json")
    predictor = ActivationOutputLayers(cfg, ShapeSpec(channels=8))
    name = cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME
    assert name or path.stem.endswith("_published_thresholds")
    assert isinstance(predictor.calibration, calibration_class(name) if name else type(None))


@pytest.mark.parametrize("path", [path for path in LVIS_CONFIGS if path.stem.startswith("r101_")], ids=lambda p: p.stem)
def test_a_model_of_r101_is_that_of_r50_but_for_its_depth(path):
    deep, shallow = load_config(path).MODEL, load_config(path.with_name(path.name.replace("r101_", "r50_"))).MODEL
    assert (deep.RESNETS.DEPTH, shallow.RESNETS.DEPTH) == (101, 50)
    deep.RESNETS.DEPTH = 50
    deep.WEIGHTS = shallow.WEIGHTS = ""
    assert deep == shallow


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [path for path in LVIS_CONFIGS if path.stem.startswith("r50_") and not _only_evaluates(path)],
    ids=lambda path: path.stem,
)
def test_every_lvis_config_builds_and_steps(path, photographs, full_vocabulary):
    """On small images with few RoIs and an R18: what differs between methods is behind them."""
    few = {"RPN.POST_NMS_TOPK_TRAIN": 50, "RPN.PRE_NMS_TOPK_TRAIN": 100, "ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16}
    opts = ["MODEL.DEVICE", "cpu", *(str(w) for key, n in few.items() for w in (f"MODEL.{key}", n))]
    opts += ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]
    opts += ["MODEL.CLASS_PRIOR.SAMPLED", "False"]  # which is counted in LVIS's annotations
    cfg = load_config(path, opts)
    model = build_model(cfg)
    batch = mapped((photographs or _rendered_records(full_vocabulary))[:1], cfg, shortest=128)
    calibrate_frozen_norms(model, batch)
    before = {name: p.clone() for name, p in model.named_parameters() if p.requires_grad}
    training_step(model, batch)
    build_optimizer(cfg, model).step()
    unchanged = [name for name, p in model.named_parameters() if name in before and torch.equal(p, before[name])]
    assert not unchanged


def _rendered_records(root):
    from detectron2.data import DatasetCatalog

    register_rendered(root)
    return DatasetCatalog.get("rendered_train")[:2]


@pytest.mark.parametrize(
    "path",
    [path for path in SMALL_CONFIGS if not _only_evaluates(path)],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_every_small_config_builds_and_steps(path, rendered, tmp_path):
    from detectron2.data import DatasetCatalog

    cfg = load_config(path, rendered_opts(rendered, tmp_path))
    model = build_model(cfg)
    before = {name: p.clone() for name, p in model.named_parameters() if p.requires_grad}
    training_step(model, mapped(DatasetCatalog.get("rendered_train")[:2], cfg, shortest=96))
    build_optimizer(cfg, model).step()
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before)


@pytest.mark.slow
def test_full_vocabulary_steps_on_rendered_images(full_vocabulary, rendered):
    records = _rendered_records(full_vocabulary)
    opts = ["DATASETS.TRAIN", "('rendered_train',)", "MODEL.DEVICE", "cpu"]
    cfg = load_config(CONFIGS / "r50_balanced_sigmoid.yaml", opts)
    try:
        assert class_prior_of_dataset("rendered_train").num_classes == 1203
        model, batch = build_model(cfg), mapped(records, cfg, shortest=240)
        calibrate_frozen_norms(model, batch)
        training_step(model, batch)
    finally:
        register_rendered(rendered)


@pytest.mark.parametrize(
    "activation",
    [
        "sigmoid", "softmax", "balanced_sigmoid", "balanced_softmax", "class_balanced_weighting", "ldam", "focal",
        "softmax_equalization", "federated", "drop_loss", "gol", "effective_class_margin", "sigmoid_focal",
    ],
)  # fmt: skip
def test_small_model_learns_one_batch(tiny_cfg, activation):
    """The loss of a batch shown again and again falls: gradients flow the right way through every part."""
    from detectron2.data import DatasetCatalog

    tiny_cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME = activation
    model = build_model(tiny_cfg)
    batch = mapped(DatasetCatalog.get("rendered_train")[:2], tiny_cfg, shortest=96)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    totals = []
    for _ in range(15):
        optimizer.zero_grad()
        totals.append(sum(training_step(model, batch).values()))
        optimizer.step()
    assert np.mean(totals[-3:]) < 0.8 * np.mean(totals[:3])
    assert {"pred_boxes", "scores", "pred_classes", "pred_masks"} <= set(
        infer(model, batch)[0]["instances"].get_fields()
    )


def test_cascade_heads_train_and_infer(tiny_cfg):
    from detectron2.data import DatasetCatalog

    tiny_cfg.MODEL.ROI_HEADS.NAME = "LongTailCascadeROIHeads"
    tiny_cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = 0.25
    model = build_model(tiny_cfg)
    weights = [p.box2box_transform.weights for p in model.roi_heads.box_predictor]
    assert weights == [tuple(w) for w in tiny_cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS]
    batch = mapped(DatasetCatalog.get("rendered_train")[:2], tiny_cfg, shortest=96)
    losses = training_step(model, batch)
    assert {f"loss_cls_stage{i}" for i in range(3)} <= set(losses)
    infer(model, batch)


@pytest.mark.slow
def test_a_training_step_is_detectron2s_on_photographs(photographs, full_vocabulary):
    """Losses to the rounding of sums, and every parameter's gradient, beside Detectron2's own model."""
    few = {"RPN.POST_NMS_TOPK_TRAIN": 200, "ROI_HEADS.BATCH_SIZE_PER_IMAGE": 64}
    opts = ["MODEL.DEVICE", "cpu", *(str(w) for key, n in few.items() for w in (f"MODEL.{key}", n))]
    cfg = load_config(CONFIGS / "r50_rfs.yaml", opts)
    stock_cfg = model_zoo.get_config("LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    stock_cfg.merge_from_list([*opts, "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True])
    ours, stock = build_model(cfg), build_model(stock_cfg)
    batch = mapped(photographs or _rendered_records(full_vocabulary), cfg, shortest=160)
    calibrate_frozen_norms(ours, batch)
    stock.load_state_dict(ours.state_dict())
    found = []
    for model in (stock, ours):
        torch.manual_seed(0)  # anchors and RoIs are sampled
        losses = training_step(model, batch)
        found.append((losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (expected, of_stock), (losses, of_ours) = found
    assert losses == pytest.approx(expected, rel=1e-5)
    assert set(of_stock) == set(of_ours)
    for name, gradient in of_stock.items():
        assert (of_ours[name] - gradient).abs().max() <= 1e-4 * gradient.abs().max() + 1e-9, name
