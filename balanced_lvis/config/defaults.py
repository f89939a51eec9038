"""Configuration keys that balanced_lvis adds to Detectron2's, with their defaults."""

from __future__ import annotations

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from ..activations import activation_class, activation_names
from ..calibration import calibration_class, calibration_names
from ..config_files.options import add_options
from ..data.copy_paste import CopyPaste
from ..data.samplers import samplers_with_options


def default_config() -> CN:
    """Detectron2's default config with balanced_lvis's keys."""
    cfg = get_cfg()
    add_balanced_lvis_config(cfg)
    return cfg


def add_balanced_lvis_config(cfg: CN) -> None:
    """Add balanced_lvis's keys, with their defaults, to a Detectron2 config in place."""
    # Modules to import before keys are checked: they register activations, calibrations and samplers from outside the
    # package. They run as any Python module does. --import MODULE adds to them.
    cfg.IMPORTS = ()
    # Set where the config was made from a LazyConfig, Python code that declares the model and other parts: its file,
    # which runs, and its overrides. See docs/backbones.md.
    cfg.LAZY = CN()
    cfg.LAZY.FILE = ""
    cfg.LAZY.OVERRIDES = ()
    _add_methods(cfg)
    _add_model(cfg.MODEL)
    _add_speed_and_memory(cfg)
    _add_test(cfg.TEST)
    _add_solver(cfg.SOLVER)
    _add_datasets(cfg.DATASETS)
    _add_copy_paste(cfg.INPUT)
    _add_job(cfg)
    _add_wandb(cfg)


def _add_methods(cfg: CN) -> None:
    """Options are declared once, in the constructors: each method has a node under its name in capitals."""
    activation = cfg.MODEL.ROI_BOX_HEAD.ACTIVATION = CN()
    activation.NAME = "balanced_sigmoid"  # how logits become a training loss and test-time scores: docs/methods.md
    add_options(activation, "activation", {name: activation_class(name) for name in activation_names()})

    calibration = cfg.MODEL.ROI_BOX_HEAD.CALIBRATION = CN()
    calibration.NAME = ""  # correction of the test-time scores of any checkpoint; "": none
    add_options(calibration, "calibration", {name: calibration_class(name) for name in calibration_names()})

    cfg.DATALOADER.SAMPLER = CN()  # options of DATALOADER.SAMPLER_TRAIN, for samplers that have any
    add_options(cfg.DATALOADER.SAMPLER, "sampler", samplers_with_options())

    # Class frequencies of the training set. Empty: from the metadata or the annotations of DATASETS.TRAIN.
    cfg.MODEL.CLASS_PRIOR = CN()
    cfg.MODEL.CLASS_PRIOR.FILE = ""  # a JSON file of ClassPrior.save() or `balanced-lvis analyze-dataset --json`
    # Frequencies of the images that DATALOADER.SAMPLER_TRAIN shows, repeated ones included, not of the dataset.
    cfg.MODEL.CLASS_PRIOR.SAMPLED = False

    # The second stage, read by META_ARCHITECTURE "DecoupledRCNN": everything but the classifier is frozen.
    decoupled = cfg.MODEL.DECOUPLED = CN()
    # "retrain" (cRT: from scratch), "rescale" (LWS: one scale per class) or "finetune" (from stage 1's weights).
    decoupled.CLASSIFIER = "retrain"
    decoupled.SCALE_FORM = "logits"  # for "rescale": "logits" is (W x + b) s, "weights" is (s W) x + b
    decoupled.SCALE_WEIGHT_DECAY = None  # of the scales; None: SOLVER.WEIGHT_DECAY, as in the authors' code

    # Meta re-weighting (BALMS) of each class's foreground RoIs in the second stage.
    meta = cfg.SOLVER.META = CN()
    meta.ENABLED = False
    meta.LR = 0.01  # Adam's learning rate for the parameters psi of the class weights
    meta.INNER_LR = 0.0  # learning rate of the differentiable SGD step; 0: the optimizer's current one
    meta.IMS_PER_BATCH = 0  # images of a class-balanced meta batch; 0: SOLVER.IMS_PER_BATCH


def _add_model(model: CN) -> None:
    # Compute each RoI's mask of its own class only, where NAME is "MaskRCNNConvUpsampleHead": the same results up to
    # rounding at lower cost. False is Detectron2's head, bit-identical.
    model.ROI_MASK_HEAD.CHOSEN_CLASS_ONLY = True
    # Masks are predicted by a cosine times this temperature, such as 20 (Seesaw Loss). 0: by Detectron2's convolution.
    model.ROI_MASK_HEAD.TEMPERATURE = 0.0

    # The network of BACKBONE.NAME "build_timm_fpn_backbone", such as "tf_efficientnet_lite0".
    model.TIMM = CN()
    model.TIMM.NAME = ""

    # Compute gradients of the RPN only where its losses look, which is nearly nowhere: bit-identical predictions, the
    # same gradients up to rounding. "StandardRPNHead" is Detectron2's.
    model.RPN.HEAD_NAME = "SampledRPNHead"

    # Allow the file that MODEL.WEIGHTS names to run code, if it contains more than tensors and plain values.
    # Checkpoints of balanced_lvis, Detectron2 and its model zoo don't need it.
    model.TRUST_WEIGHTS = False

    # Moving average of the weights: evaluated next to the weights, saved in every checkpoint and, at the end, in
    # OUTPUT_DIR/ema.
    model.EMA = CN()
    model.EMA.ENABLED = False
    model.EMA.DECAY = 0.999  # per update


def _add_speed_and_memory(cfg: CN) -> None:
    # Faster, but not bit-identical; see docs/performance.md. Checkpoints are the same with and without.
    cfg.MODEL.CHANNELS_LAST = False  # convolutions in torch's channels_last layout
    cfg.MODEL.TF32 = False  # matrix products in TF32 on a GPU, as torch's convolutions are by default
    cfg.MODEL.COMPILE_BACKBONE = False  # torch.compile of backbone and FPN; needs a C++ compiler, or triton on a GPU
    cfg.SOLVER.OPTIMIZER_KERNEL = ""  # implementation of torch's optimizers: "foreach", "fused" or "" (torch's choice)

    # Parts whose activations are computed again in the backward pass instead of being kept: "backbone", "box_head".
    # The same losses and gradients with less memory, for another forward pass of these parts.
    cfg.MODEL.ACTIVATION_CHECKPOINTING = ()


def _add_test(test: CN) -> None:
    # Implementation of the LVIS metrics: "fast", or "official", the LVIS API itself. Equal to the last digit.
    test.LVIS_BACKEND = "fast"

    # Lowest value of the mask head at which a pixel belongs to the object, in evaluation, prediction and export.
    test.MASK_THRESHOLD = 0.5

    # Detections of each category that are stored over the dataset, those with the highest scores, besides the 300 best
    # of each image; for AP-fixed (docs/analysis.md). 0: all. AP is the same.
    test.DETECTIONS_PER_CATEGORY = 0

    # At every evaluation during training, on images of each dataset in DATASETS.TEST that are the same in every run, to
    # TensorBoard (docs/training.md). 0: none.
    test.LOSS_IMAGES = 0  # images whose training losses are computed, without an effect on training
    test.SAMPLE_IMAGES = 0  # images whose predictions are drawn next to the ground truth, up to 100


def _add_solver(solver: CN) -> None:
    solver.OPTIMIZER = "SGD"  # "SGD" or "AdamW"; BASE_LR and WEIGHT_DECAY are passed to either

    # SOLVER.CLIP_GRADIENTS.CLIP_TYPE may also be "full_model": CLIP_VALUE is then the norm of the whole gradient.

    # Batches per update, processed one after the other; IMS_PER_BATCH remains the number of images per update.
    solver.ACCUMULATE_BATCHES = 1
    # Consecutive updates that may be skipped because losses or gradients are not finite, before training stops.
    solver.MAX_SKIPPED_STEPS = 10
    # Data type for SOLVER.AMP.ENABLED: "float16", as in Detectron2, or "bfloat16". Losses stay in float32.
    solver.AMP.DTYPE = "float16"


def _add_datasets(datasets: CN) -> None:
    # Train without the images that are missing on disk, as --allow-missing does, instead of refusing to start.
    datasets.ALLOW_MISSING = False

    # Custom datasets in COCO or LVIS format, by the names that TRAIN and TEST use; each has a JSON and a folder of
    # IMAGES: DATASETS.CUSTOM.birds_train.JSON birds/train.json. See docs/custom_dataset.md.
    datasets.CUSTOM = CN(new_allowed=True)

    # The rendered dataset: rendered_train, rendered_val and rendered_test_dev.
    rendered = datasets.RENDERED = CN()
    rendered.ROOT = ""  # folder; empty: one per set of parameters in $DETECTRON2_DATASETS (or ./datasets)
    rendered.NUM_CLASSES = 100  # characters, up to 1203
    rendered.TRAIN_IMAGES = 1600
    rendered.VAL_IMAGES = 400
    rendered.TEST_IMAGES = 40
    rendered.IMAGE_SIZE = (128, 128)  # height, width in pixels
    rendered.OBJECTS_PER_IMAGE = 5  # on average
    rendered.OBJECT_SCALE = (0.22, 0.45)  # longer side of a sticker / shorter side of the image
    rendered.SEED = 0


def _add_copy_paste(node: CN) -> None:
    """The options are declared once, in the constructor."""
    add_options(node, "augmentation", {"copy_paste": CopyPaste})
    node.COPY_PASTE.ENABLED = False  # paste objects of a second training image on each one: docs/methods.md


def _add_job(cfg: CN) -> None:
    # When a job of several processes ends because a process is dead or stuck, in seconds: without a sign of life or
    # progress from a process, and without progress in slow parts: start-up, evaluation, checkpoints. With TIMEOUT 0 it
    # ends only if a process fails with an error: if one is killed or stuck, the others may wait for hours.
    cfg.WATCHDOG = CN()
    cfg.WATCHDOG.TIMEOUT = 300.0
    cfg.WATCHDOG.SLOW_TIMEOUT = 7200.0

    # Training images of all processes that can't be read or used and are skipped before training stops with an error;
    # another image takes the place of each. 0: the first one is an error.
    cfg.DATALOADER.MAX_BROKEN = 10


def _add_wandb(cfg: CN) -> None:
    # Metrics and images of training in Weights & Biases, whose package wandb must be installed.
    cfg.WANDB = CN()
    cfg.WANDB.PROJECT = ""  # name of the project; "": nothing is written
    cfg.WANDB.ENTITY = ""  # user or team; "": that of the login
    cfg.WANDB.NAME = ""  # name of the run; "": the folder name of OUTPUT_DIR
