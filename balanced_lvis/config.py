"""Every configuration key that balanced_lvis adds to Detectron2's, and clear errors for misspelt ones."""

from __future__ import annotations

import difflib
import os
import re

import yaml

from . import _detectron2
from .config_files import check_config_file
from .config_names import config_path
from .utils.errors import InputError
from .utils.text import one_line
from .utils.user_paths import expand_values

_detectron2.require()

from detectron2.config import CfgNode as CN  # noqa: E402
from detectron2.config import get_cfg  # noqa: E402


def add_balanced_lvis_config(cfg: CN) -> None:
    """Add balanced_lvis's keys, with their defaults, to a Detectron2 config in place."""
    box_head = cfg.MODEL.ROI_BOX_HEAD

    # How logits become a training loss and test-time scores: see balanced_lvis.activations for the names.
    box_head.ACTIVATION = CN()
    box_head.ACTIVATION.NAME = "balanced_sigmoid"
    # Options of each activation, under its name in capitals; only those of NAME are read.
    box_head.ACTIVATION.SIGMOID = CN()
    box_head.ACTIVATION.SIGMOID.PRIOR_PROBABILITY = 0.001  # the score that every class starts from
    box_head.ACTIVATION.SOFTMAX = CN()
    box_head.ACTIVATION.BALANCED_SIGMOID = CN()
    # "centred" (the original formula) or "foreground" (the authors' detection code): docs/methods.md compares them.
    box_head.ACTIVATION.BALANCED_SIGMOID.FORM = "centred"
    box_head.ACTIVATION.BALANCED_SIGMOID.COUNT = "image"  # "image" or "instance": what the centred form counts
    box_head.ACTIVATION.BALANCED_SIGMOID.PRIOR_PROBABILITY = 0.001
    box_head.ACTIVATION.BALANCED_SOFTMAX = CN()
    box_head.ACTIVATION.BALANCED_SOFTMAX.COUNT = "image"  # "image" or "instance"
    box_head.ACTIVATION.EQUALIZATION = CN()
    # Classes in less than this share of the training images are the tail: 1.1e-3 on LVIS-1.0, also with RFS.
    box_head.ACTIVATION.EQUALIZATION.THRESHOLD = 0.0011
    box_head.ACTIVATION.EQUALIZATION.TAIL_GROUPS = ""  # instead of THRESHOLD, LVIS's groups: "rc" is rare and common
    box_head.ACTIVATION.EQUALIZATION.PRIOR_PROBABILITY = 0.001

    # Compute each RoI's mask of its own class only, where NAME is "MaskRCNNConvUpsampleHead": the same results up to
    # rounding, without the other classes' masks. False is Detectron2's head to the bit, at its cost.
    cfg.MODEL.ROI_MASK_HEAD.CHOSEN_CLASS_ONLY = True

    # Let a file that MODEL.WEIGHTS names run code, if it holds more than tensors and plain values. What we and
    # Detectron2 write, and its model zoo, need no trust.
    cfg.MODEL.TRUST_WEIGHTS = False

    # Gradients of the RPN where its losses look, which is nearly nowhere: the same predictions to the bit, the same
    # gradients up to rounding. "StandardRPNHead" is Detectron2's.
    cfg.MODEL.RPN.HEAD_NAME = "SampledRPNHead"

    # The second stage, read by META_ARCHITECTURE "DecoupledRCNN": everything but the classifier is frozen.
    decoupled = cfg.MODEL.DECOUPLED = CN()
    # "retrain" (cRT: from scratch), "rescale" (LWS: one scale per class) or "finetune" (on from stage 1's).
    decoupled.CLASSIFIER = "retrain"
    decoupled.SCALE_FORM = "logits"  # of "rescale": "logits" is (W x + b) s, "weights" is (s W) x + b
    decoupled.SCALE_WEIGHT_DECAY = None  # of the scales; None: SOLVER.WEIGHT_DECAY, as their authors have it

    # A moving average of the weights: evaluated beside them, in every checkpoint, and at last in OUTPUT_DIR/ema.
    cfg.MODEL.EMA = CN()
    cfg.MODEL.EMA.ENABLED = False
    cfg.MODEL.EMA.DECAY = 0.999  # of the average, per update

    # Class frequencies of the training set. Empty: from the metadata or the annotations of DATASETS.TRAIN.
    cfg.MODEL.CLASS_PRIOR = CN()
    cfg.MODEL.CLASS_PRIOR.FILE = ""  # a JSON file that ClassPrior.save() wrote
    # Frequencies of the images that DATALOADER.SAMPLER_TRAIN shows, repeated ones included, not of the dataset.
    cfg.MODEL.CLASS_PRIOR.SAMPLED = False

    # What computes the LVIS numbers: "fast", or "official", the LVIS API itself. Equal to the last digit.
    cfg.TEST.LVIS_BACKEND = "fast"

    # Faster, with other last digits; see docs/performance.md. Checkpoints fit with and without.
    cfg.MODEL.CHANNELS_LAST = False  # convolutions in torch's channels_last layout
    cfg.MODEL.TF32 = False  # matrix products in TF32 on a GPU, as torch's convolutions there are anyway
    cfg.MODEL.COMPILE_BACKBONE = False  # torch.compile of backbone and FPN; needs a C++ compiler, or triton on a GPU
    cfg.SOLVER.OPTIMIZER_KERNEL = ""  # "foreach" or "fused": torch's optimizers of that kind; "" is torch's choice

    # Parts whose activations are computed again in the backward pass instead of being kept: "backbone", "box_head". The
    # same losses and gradients with less memory, for another forward pass of these parts.
    cfg.MODEL.ACTIVATION_CHECKPOINTING = ()

    cfg.SOLVER.OPTIMIZER = "SGD"  # "SGD" or "AdamW"; BASE_LR and WEIGHT_DECAY mean what they mean to each

    # SOLVER.CLIP_GRADIENTS.CLIP_TYPE may also be "full_model": CLIP_VALUE is then the norm of the whole gradient.

    # Batches that an update is made from, one after the other; IMS_PER_BATCH stays the images of an update.
    cfg.SOLVER.ACCUMULATE_BATCHES = 1
    # Updates in a row that may be skipped because losses or gradients are not finite, before the run stops.
    cfg.SOLVER.MAX_SKIPPED_STEPS = 10
    # What SOLVER.AMP.ENABLED computes in: "float16", as Detectron2 does, or "bfloat16". Losses stay in float32.
    cfg.SOLVER.AMP.DTYPE = "float16"

    # Meta re-weighting (BALMS) of each class's foreground RoIs in the second stage.
    meta = cfg.SOLVER.META = CN()
    meta.ENABLED = False
    meta.LR = 0.01  # of Adam, for the weights' parameters psi
    meta.INNER_LR = 0.0  # of the differentiable SGD step; 0: the optimizer's learning rate of the iteration
    meta.IMS_PER_BATCH = 0  # images of a class-balanced meta batch; 0: as many as SOLVER.IMS_PER_BATCH

    # Train without the images that are not on the disk, as --allow-missing does, instead of refusing to start.
    cfg.DATASETS.ALLOW_MISSING = False

    # When a job of several processes ends because one is dead or stuck, in seconds: without a sign of life or progress
    # from a process, and without progress in what is slow: start-up, evaluation, checkpoints. With TIMEOUT 0 it ends
    # only where a process fails with an error: one that is killed or stuck may leave others waiting for hours.
    cfg.WATCHDOG = CN()
    cfg.WATCHDOG.TIMEOUT = 300.0
    cfg.WATCHDOG.SLOW_TIMEOUT = 7200.0

    # Training images that can't be read or used, of all processes, that are left out before the run stops with an
    # error; another image takes the place of each. 0: the first one is an error.
    cfg.DATALOADER.MAX_BROKEN = 10

    # Data sets of one's own in COCO or LVIS format, by the names that TRAIN and TEST have for them; each has a JSON and
    # a folder of IMAGES: DATASETS.CUSTOM.birds_train.JSON birds/train.json. See docs/custom_dataset.md.
    cfg.DATASETS.CUSTOM = CN(new_allowed=True)

    # The rendered data set, behind the names rendered_train, rendered_val and rendered_test_dev.
    rendered = cfg.DATASETS.RENDERED = CN()
    rendered.ROOT = ""  # folder; empty: one per set of parameters in $DETECTRON2_DATASETS (or ./datasets)
    rendered.NUM_CLASSES = 58  # characters, up to 1203
    rendered.TRAIN_IMAGES = 1200
    rendered.VAL_IMAGES = 300
    rendered.TEST_IMAGES = 40
    rendered.IMAGE_SIZE = (128, 128)  # height, width in pixels
    rendered.OBJECTS_PER_IMAGE = 5  # on average
    rendered.OBJECT_SCALE = (0.22, 0.45)  # the longer side of a character / the shorter side of the image
    rendered.SEED = 0


def default_config() -> CN:
    """Detectron2's default config with balanced_lvis's keys."""
    cfg = get_cfg()
    add_balanced_lvis_config(cfg)
    return cfg


def load_config(config_file: str | os.PathLike = "", opts: list[str] | tuple[str, ...] = ()) -> CN:
    """
    Read a yaml file and command-line overrides into a full config.

    Args:
        config_file: path of a yaml file, or name of a config that comes with balanced_lvis
            (:func:`.config_names.config_path`); empty for the defaults.
        opts: ``KEY VALUE`` pairs, flat.

    In both, and in the values of the config, a path may begin with ~.

    Raises:
        InputError: for a missing or malformed file, an unknown key (naming the closest valid ones) or a value of the
            wrong type.
    """
    cfg = default_config()
    if config_file:
        _merge_file(cfg, config_path(config_file))
    _merge_opts(cfg, list(opts))
    expand_values(cfg)
    return cfg


def _merge_file(cfg: CN, path: str) -> None:
    try:
        check_config_file(path)
        cfg.merge_from_file(path, allow_unsafe=False)  # else a config could run any code
    except KeyError as error:
        raise InputError(_unknown_key(cfg, error, path)) from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: its _BASE_ {error.filename!r} doesn't exist.") from error
    except InputError:
        raise
    except (TypeError, AttributeError) as error:
        raise InputError(f"{path} must be a yaml mapping of config keys to values ({error}).") from error
    except _NESTED as error:
        raise InputError(f"{path}: {_TOO_DEEP}.") from error
    except (ValueError, yaml.YAMLError, AssertionError) as error:
        raise InputError(f"{path}: {_type_mismatch(error)}") from error


def _merge_opts(cfg: CN, opts: list[str]) -> None:
    options = [word for word in opts if word.startswith("--")]
    if options:
        raise InputError(
            f"{options[0][:80]} comes after overrides of the config; put it before the first KEY VALUE pair."
        )
    if len(opts) % 2:
        raise InputError(f"Overrides come as KEY VALUE pairs, but there are {len(opts)} words: {' '.join(opts)}")
    for key, value in zip(opts[0::2], opts[1::2]):
        _make_room_for_custom(cfg, key)
        try:
            cfg.merge_from_list([key, value])
        except (KeyError, AssertionError, TypeError) as error:
            if _node(cfg, key) is not None:
                raise InputError(f"{key} {value}: {error}") from error
            raise InputError(_unknown_key(cfg, KeyError(f"Non-existent key: {key}"), "command line")) from error
        except _NESTED as error:
            raise InputError(f"{key} is {value[:40]!r}...: {_TOO_DEEP}.") from error
        except ValueError as error:
            raise InputError(f"{key} is {value!r:.200}: {_type_mismatch(error)}") from error


# Of Python's parser, by which yacs reads values.
_NESTED = (RecursionError, MemoryError)
_TOO_DEEP = "a value is nested too deeply"
# yacs's words for a value of another type than the default's.
_MISMATCH = re.compile(
    r"Type mismatch \(<class '(.*)'> vs\. <class '.*'>\) with values \((.*) vs\. .*\) for config key: (.*)"
)


def _type_mismatch(error: Exception) -> str:
    match = _MISMATCH.fullmatch(str(error))
    return f"{match[3]} must be of type {match[1]}, like {match[2] or repr('')}." if match else str(error)


def _make_room_for_custom(cfg: CN, key: str) -> None:
    """A data set under DATASETS.CUSTOM that an override is the first to name: yacs has overrides of known keys only."""
    parent, _, part = key.rpartition(".")
    parent, _, name = parent.rpartition(".")
    if parent == "DATASETS.CUSTOM" and part in ("JSON", "IMAGES"):
        cfg.DATASETS.CUSTOM.setdefault(name, CN()).setdefault(part, "")


def _node(cfg: CN, key: str):
    node = cfg
    for part in key.split("."):
        if not isinstance(node, CN) or part not in node:
            return None
        node = node[part]
    return node


def _unknown_key(cfg: CN, error: KeyError, source: str) -> str:
    """The message for a key that no config has: yacs names it at the end of its own message."""
    key = str(error.args[0]).split(": ", 1)[-1]
    parent, _, name = key.rpartition(".")
    node = _node(cfg, parent) if parent else cfg
    while not isinstance(node, CN):  # the parent itself is misspelt: report at the level that exists
        parent, _, name = parent.rpartition(".")
        node = _node(cfg, parent) if parent else cfg
    close = difflib.get_close_matches(name, list(node), n=1)
    hint = f" Did you mean {one_line('.'.join(filter(None, [parent, close[0]])))}?" if close else ""
    key, parent, valid = one_line(key), one_line(parent), ", ".join(map(one_line, sorted(node)))
    return f"{source}: unknown config key {key}.{hint} Valid under {parent or 'the root'}: {valid}."
