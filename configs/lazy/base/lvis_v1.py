"""
LVIS-1.0 with repeat factor sampling, large-scale jittering and the schedule of Detectron2's LVIS configs.

As ``projects/ViTDet/configs/LVIS`` of Detectron2: 64 images of 1024 x 1024 pixels per iteration, 100 epochs.
"""

import detectron2.data.transforms as T
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from balanced_lvis.data.mapper import ImageMapper
from balanced_lvis.evaluation import LVISEvaluator

_IMAGE_SIZE = 1024  # pixels; model.backbone.square_pad must be the same

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.dataset.names = "lvis_v1_train"
dataloader.train.sampler = L(RepeatFactorTrainingSampler)(
    repeat_factors=L(RepeatFactorTrainingSampler.repeat_factors_from_category_frequency)(
        dataset_dicts="${dataloader.train.dataset}", repeat_thresh=0.001
    )
)
dataloader.train.mapper = L(ImageMapper)(
    is_train=True,
    augmentations=[
        L(T.RandomFlip)(horizontal=True),
        L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=_IMAGE_SIZE, target_width=_IMAGE_SIZE),
        L(T.FixedSizeCrop)(crop_size=(_IMAGE_SIZE, _IMAGE_SIZE), pad=False),
    ],
    image_format="RGB",
    use_instance_mask=True,
    recompute_boxes=True,  # of objects that are cropped
)
dataloader.train.total_batch_size = 64
dataloader.test.dataset.names = "lvis_v1_val"
dataloader.test.mapper = L(ImageMapper)(
    is_train=False,
    augmentations=[L(T.ResizeShortestEdge)(short_edge_length=_IMAGE_SIZE, max_size=_IMAGE_SIZE)],
    image_format="RGB",
)
dataloader.evaluator = L(LVISEvaluator)(dataset_name="${..test.dataset.names}")

train = dict(
    output_dir="output",
    init_checkpoint="",
    max_iter=156250,  # 156250 * 64 / 99388 = 100.6 epochs
    amp=dict(enabled=True),
    checkpointer=dict(period=5000),
    eval_period=30000,
    device="cuda",
)

# Relative to the length of the run: another train.max_iter scales milestones and warm-up.
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[138889, 150463], num_updates=train["max_iter"]
    ),
    warmup_length=250 / train["max_iter"],
    warmup_factor=0.001,
)
