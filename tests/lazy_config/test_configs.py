"""The LazyConfigs that come with balanced_lvis: their settings, and a training step and an evaluation of small ones."""

import pytest
import torch
from detectron2.data import transforms as T
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate

from balanced_lvis.activations import Federated, Seesaw
from balanced_lvis.config import load_config
from balanced_lvis.config.lazy import predictors
from balanced_lvis.config_files.names import config_names
from balanced_lvis.data.mapper import ImageMapper, build_mapper
from balanced_lvis.engine.checkpoints.checkpointer import Checkpointer
from balanced_lvis.engine.config_checks import check_config
from balanced_lvis.engine.trainer import Trainer
from balanced_lvis.lazy_config.files import lazy_config, target_of
from balanced_lvis.modeling.mask_head import NormalizedConv2d
from tests.lazy_config.small import engine

NAMES = [name for name in config_names() if name.startswith("lazy/")]
METHODS = {
    "balanced_sigmoid": ("balanced_sigmoid", 0.0001),
    "federated": ("federated", 0.02),
    "seesaw": ("seesaw", 0.0001),
    "sigmoid": ("sigmoid", 0.0001),
}
SIZE = 64
SMALL = (
    "train.device=cpu", "train.amp.enabled=False", "train.init_checkpoint=''", "train.max_iter=1", "train.seed=1",
    "dataloader.train.dataset.names=rendered_train", "dataloader.test.dataset.names=rendered_val",
    "dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0", "dataloader.test.num_workers=0",
    f"dataloader.train.mapper.augmentations.1.target_height={SIZE}",
    f"dataloader.train.mapper.augmentations.1.target_width={SIZE}",
    "dataloader.train.mapper.augmentations.1.min_scale=1.0",
    f"dataloader.train.mapper.augmentations.2.crop_size=[{SIZE},{SIZE}]",
    f"dataloader.test.mapper.augmentations.0.short_edge_length={SIZE}",
    f"dataloader.test.mapper.augmentations.0.max_size={SIZE}",
    "model.roi_heads.num_classes=12", "model.roi_heads.batch_size_per_image=16", f"model.backbone.square_pad={SIZE}",
    "model.roi_heads.mask_head.conv_dims=[16,16]",
    "model.proposal_generator.pre_nms_topk=[64,32]", "model.proposal_generator.post_nms_topk=[32,16]",
    *(f"engine.DATASETS.RENDERED.{key}={value}" for key, value in engine["DATASETS"]["RENDERED"].items()),
)  # fmt: skip


def small_box_head(head, predictor):
    head, predictor = f"model.roi_heads.{head}", f"model.roi_heads.{predictor}"
    return f"{head}.conv_dims=[16]", f"{head}.fc_dims=[32]", f"{predictor}.input_shape.channels=32"


SMALL_BACKBONES = {
    "vitdet_b": (
        f"model.backbone.net.img_size={SIZE}", "model.backbone.net.embed_dim=32", "model.backbone.net.depth=2",
        "model.backbone.net.num_heads=2", "model.backbone.net.window_size=2",
        "model.backbone.net.window_block_indexes=[0]", *small_box_head("box_head", "box_predictor"),
    ),
    "swin_b": (
        "model.backbone.bottom_up.embed_dim=16", "model.backbone.bottom_up.depths=[1,1,2,1]",
        "model.backbone.bottom_up.num_heads=[1,1,2,2]", "model.backbone.bottom_up.window_size=2",  # not in the file
        *(word for stage in range(3) for word in small_box_head(f"box_heads.{stage}", f"box_predictors.{stage}")),
    ),
}  # fmt: skip


def backbone_and_method(name):
    backbone = next(backbone for backbone in SMALL_BACKBONES if name.startswith(f"lazy/{backbone}_"))
    return backbone, name.removeprefix(f"lazy/{backbone}_")


def test_each_backbone_has_all_methods():
    assert sorted(map(backbone_and_method, NAMES)) == sorted((b, m) for b in SMALL_BACKBONES for m in METHODS)


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_those_of_detectron2s_recipes(name):
    backbone, method = backbone_and_method(name)
    cfg = load_config(name)
    activation, threshold = METHODS[method]
    assert activation == cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME
    assert (threshold, 300) == (cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE)
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("lvis_v1_train",), ("lvis_v1_val",))
    assert (cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD) == ("RepeatFactorTrainingSampler", 0.001)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.AMP.ENABLED, cfg.MODEL.ROI_HEADS.NUM_CLASSES) == (64, True, 1203)
    assert {"vitdet_b": 156250, "swin_b": 78125}[backbone] == cfg.SOLVER.MAX_ITER
    heads = {"vitdet_b": "LongTailROIHeads", "swin_b": "LongTailCascadeROIHeads"}
    assert heads[backbone] == cfg.MODEL.ROI_HEADS.NAME
    assert (20.0 if method == "seesaw" else 0.0) == cfg.MODEL.ROI_MASK_HEAD.TEMPERATURE
    assert ("RGB", 1024, f"output/{backbone}_{method}") == (cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST, cfg.OUTPUT_DIR)
    assert cfg.MODEL.WEIGHTS.startswith("detectron2://ImageNetPretrained/")


@pytest.mark.parametrize("name", NAMES)
def test_optimizer_and_schedule_are_those_of_detectron2s_recipes(name):
    backbone, _ = backbone_and_method(name)
    lazy = lazy_config(load_config(name))
    optimizer, scheduler = lazy.optimizer, lazy.lr_multiplier.scheduler
    assert target_of(optimizer) is torch.optim.AdamW
    expected = {"vitdet_b": (2e-4, 0.1, "pos_embed"), "swin_b": (1e-4, 0.05, "relative_position_bias_table")}
    assert (optimizer.lr, optimizer.weight_decay, *optimizer.params.overrides) == expected[backbone]
    assert [dict(one) for one in optimizer.params.overrides.values()] == [{"weight_decay": 0.0}]
    assert (list(optimizer.betas), optimizer.params.weight_decay_norm) == ([0.9, 0.999], 0.0)
    factor = optimizer.params.get("lr_factor_func")
    if backbone == "vitdet_b":
        assert factor.func is get_vit_lr_decay_rate and factor.keywords == {"num_layers": 12, "lr_decay_rate": 0.7}
    else:
        assert factor is None
    milestones = {"vitdet_b": [138889, 150463], "swin_b": [69444, 75231]}
    assert (list(scheduler["values"]), list(scheduler.milestones)) == ([1.0, 0.1, 0.01], milestones[backbone])
    assert scheduler.num_updates == {"vitdet_b": 156250, "swin_b": 78125}[backbone]
    warm_up = {"vitdet_b": 0.0016, "swin_b": 0.0032}[backbone]  # 250 iterations
    assert (lazy.lr_multiplier.warmup_length, lazy.lr_multiplier.warmup_factor) == (pytest.approx(warm_up), 0.001)
    assert lazy.train.eval_period == 30000


@pytest.mark.parametrize("name", NAMES)
def test_images_and_model_are_those_of_detectron2s_recipes(name):
    backbone, method = backbone_and_method(name)
    lazy = lazy_config(load_config(name))
    body = {"vitdet_b": "net", "swin_b": "bottom_up"}[backbone]
    assert lazy.model.backbone[body].drop_path_rate == {"vitdet_b": 0.1, "swin_b": 0.3}[backbone]
    assert lazy.model.backbone.square_pad == 1024
    mapper = lazy.dataloader.train.mapper
    flip, scale, crop = mapper.augmentations
    assert [target_of(one) for one in (flip, scale, crop)] == [T.RandomFlip, T.ResizeScale, T.FixedSizeCrop]
    assert (flip.horizontal, list(crop.crop_size), crop.pad) == (True, [1024, 1024], False)
    assert (scale.min_scale, scale.max_scale, scale.target_height, scale.target_width) == (0.1, 2.0, 1024, 1024)
    assert (mapper.recompute_boxes, mapper.use_instance_mask) == (True, True)
    (shortest,) = lazy.dataloader.test.mapper.augmentations
    assert (shortest.short_edge_length, shortest.max_size) == (1024, 1024)
    for predictor in predictors(lazy) if method == "federated" else ():
        activation = predictor.activation
        assert target_of(activation) is Federated
        assert (activation.classes_per_batch, activation.power, activation.prior_probability) == (50, 0.5, 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_mappers_of_records_without_masks_still_compute_boxes_from_masks(name):
    cfg = load_config(name)
    for masks in (True, False):
        mapper = build_mapper(cfg, True, masks)
        assert type(mapper) is ImageMapper and mapper.recompute_boxes and mapper.use_instance_mask


def small_config(name, *words):
    return load_config(name, [*SMALL, *SMALL_BACKBONES[backbone_and_method(name)[0]], *words])


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("lazy/vitdet_b_sigmoid", "backbone.net."), ("lazy/swin_b_sigmoid", "backbone.bottom_up.")],
)
def test_the_authors_weights_are_found_without_the_prefix_of_the_backbone(tmp_path, name, prefix):
    """Under their own names, as in the files of MAE and Swin."""
    pytest.importorskip("timm", reason="Detectron2's ViT and Swin need timm")
    assert load_config(name).MODEL.WEIGHTS.endswith("?matching_heuristics=True")
    cfg = small_config(name)
    first, second = (Trainer.build_model(cfg) for _ in range(2))
    state = first.state_dict()
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    torch.save({"model": weights}, tmp_path / "weights.pth")
    Checkpointer(second).load(f"{tmp_path / 'weights.pth'}?matching_heuristics=True")
    loaded = second.state_dict()
    assert len(weights) > 20 and all(torch.equal(loaded[prefix + key], value) for key, value in weights.items())


@pytest.mark.parametrize("name", NAMES)
def test_a_small_model_is_trained_and_evaluated(rendered, tmp_path, name):
    pytest.importorskip("timm", reason="Detectron2's ViT and Swin need timm")
    backbone, method = backbone_and_method(name)
    cfg = small_config(name, f"engine.DATASETS.RENDERED.ROOT={rendered}", f"train.output_dir={tmp_path}")
    check_config(cfg, 1, evaluation_only=False)
    trainer = Trainer(cfg)
    before = {key: value.clone() for key, value in trainer.model.named_parameters()}
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert trainer.step.skipped == 0
    assert trainer.results.keys() == {"bbox", "segm"} and {"AP", "APr", "APc", "APf"} <= trainer.results["bbox"].keys()
    predictors = trainer.model.roi_heads.box_predictors
    assert len(predictors) == {"vitdet_b": 1, "swin_b": 3}[backbone]
    for predictor in predictors:
        assert predictor.test_topk_per_image == 300
        weight = predictor.cls_score.get_parameter("weight")
        assert weight.isfinite().all()
        if method == "seesaw":
            assert isinstance(predictor.activation, Seesaw) and predictor.activation.num_outputs == 14
    assert isinstance(trainer.model.roi_heads.mask_head.predictor, NormalizedConv2d) == (method == "seesaw")
    changed = {key for key, value in trainer.model.named_parameters() if not torch.equal(value, before[key])}
    parts = ("backbone", "proposal_generator", "roi_heads.box", "roi_heads.mask_head")
    assert all(any(key.startswith(part) for key in changed) for part in parts)
