"""Which keys of a LazyConfig are which config keys."""

from __future__ import annotations

from typing import Any

from detectron2.data import build_detection_test_loader, build_detection_train_loader, get_detection_dataset_dicts

LAZY = "LazyConfig"  # SOLVER.OPTIMIZER and SOLVER.LR_SCHEDULER_NAME of parts that the LazyConfig declares
MODEL = "build_lazy_model"  # MODEL.META_ARCHITECTURE

# {config key: key of the LazyConfig}. Where the LazyConfig has no such key, the default of the config key is used.
TRAIN = {
    "OUTPUT_DIR": "train.output_dir",
    "MODEL.WEIGHTS": "train.init_checkpoint",
    "MODEL.DEVICE": "train.device",
    "SOLVER.MAX_ITER": "train.max_iter",
    "SOLVER.AMP.ENABLED": "train.amp.enabled",
    "SOLVER.CHECKPOINT_PERIOD": "train.checkpointer.period",
    "TEST.EVAL_PERIOD": "train.eval_period",
    "SEED": "train.seed",
    "CUDNN_BENCHMARK": "train.cudnn_benchmark",
}
DATA = {
    "DATASETS.TRAIN": "dataloader.train.dataset.names",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": "dataloader.train.dataset.filter_empty",
    "SOLVER.IMS_PER_BATCH": "dataloader.train.total_batch_size",
    "DATALOADER.NUM_WORKERS": "dataloader.train.num_workers",
    "DATALOADER.ASPECT_RATIO_GROUPING": "dataloader.train.aspect_ratio_grouping",
    "DATASETS.TEST": "dataloader.test.dataset.names",
}
# These are written back when the model is built, as commands change them: {config key: (key, its default)}.
HEADS = {
    "MODEL.ROI_HEADS.NUM_CLASSES": ("num_classes", None),
    "TEST.MASK_THRESHOLD": ("mask_threshold", 0.5),
}
PREDICTOR = {
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": ("test_score_thresh", 0.0),
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": ("test_nms_thresh", 0.5),
    "TEST.DETECTIONS_PER_IMAGE": ("test_topk_per_image", 100),
}
# Keys that Detectron2's configs have, and that have no effect here: {key: (the value that holds, its meaning)}. Other
# values are logged.
WITHOUT_EFFECT: dict[str, tuple[Any, str]] = {
    "train.log_period": (20, "metrics are written every 20 iterations"),
    "train.checkpointer.max_to_keep": (None, "all checkpoints are kept"),
    "train.ddp.fp16_compression": (False, "gradients are summed over processes in their own precision"),
    "train.ddp.broadcast_buffers": (False, "it is False"),
    "train.ddp.find_unused_parameters": (False, "it is False"),
    "dataloader.test.dataset.filter_empty": (False, "all images are evaluated"),
}
# Other keys of the data loaders' nodes, which are read elsewhere.
OTHER = (
    "dataloader.train.mapper", "dataloader.train.sampler", "dataloader.test.mapper", "dataloader.evaluator",
    "dataloader.test.num_workers",
)  # fmt: skip
BUILDERS = {
    "dataloader.train": build_detection_train_loader,
    "dataloader.test": build_detection_test_loader,
    "dataloader.train.dataset": get_detection_dataset_dicts,
    "dataloader.test.dataset": get_detection_dataset_dicts,
}
# What ENGINE may have: keys that do not describe a part of the LazyConfig.
ENGINE_KEYS = (
    "DATALOADER.MAX_BROKEN", "DATALOADER.REPEAT_THRESHOLD", "DATALOADER.SAMPLER", "DATALOADER.SAMPLER_TRAIN",
    "DATASETS.ALLOW_MISSING", "DATASETS.CUSTOM", "DATASETS.RENDERED", "INPUT.COPY_PASTE",
    "MODEL.ACTIVATION_CHECKPOINTING", "MODEL.CHANNELS_LAST", "MODEL.CLASS_PRIOR", "MODEL.COMPILE_BACKBONE", "MODEL.EMA",
    "MODEL.TF32", "MODEL.TRUST_WEIGHTS", "SOLVER.ACCUMULATE_BATCHES", "SOLVER.AMP.DTYPE", "SOLVER.CLIP_GRADIENTS",
    "SOLVER.MAX_SKIPPED_STEPS", "TEST.DETECTIONS_PER_CATEGORY", "TEST.EXPECTED_RESULTS", "TEST.LOSS_IMAGES",
    "TEST.PRECISE_BN", "TEST.SAMPLE_IMAGES", "WANDB", "WATCHDOG",
)  # fmt: skip
