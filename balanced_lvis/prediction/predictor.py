"""Prediction of single images by a trained model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from detectron2.data import transforms
from detectron2.modeling import build_model
from detectron2.structures import Instances
from PIL import Image

from ..activations import activation_class
from ..config import load_config, thawed
from ..data.annotations.class_names import class_names_of
from ..data.images.broken_images import reason_of
from ..data.images.image_files import pil_to_array, read_image
from ..data.images.image_transforms import ResizeShortestEdge
from ..data.mapper import build_mapper
from ..drawing.lettering import lettering
from ..drawing.objects import class_color, draw_objects
from ..engine.checkpoints.identity import Identity, kinds_of_heads
from ..engine.checkpoints.weights import check_weights, load_for_evaluation
from ..engine.saved_prior import saved_prior
from ..engine.speed import apply_speed, check_speed
from ..evaluation.model_outputs import instance_rles, unpasted
from ..modeling.box_predictor import check_classification
from ..utils.errors import InputError, StorageError
from ..utils.run_files import CONFIG
from ..utils.text import one_line
from ..utils.user_paths import path_of
from .thresholds import ClassThresholds, read_thresholds

logger = logging.getLogger(__name__)

T = TypeVar("T")
CHANNELS = ("BGR", "RGB")
_LONG_TAIL_HEADS = {"StandardROIHeads": "LongTailROIHeads", "CascadeROIHeads": "LongTailCascadeROIHeads"}


@dataclass
class Prediction:
    """
    The detections in an image.

    Attributes:
        path: path of the image.
        pixels: (H, W, 3) uint8 RGB, upright.
        boxes: (n, 4) float32 x0, y0, x1, y1 in pixels, by falling score.
        scores: (n,) float32.
        classes: (n,) int64 in 0..K-1.
        masks: n RLEs, {"size": [H, W], "counts": str}; None for a model without masks.
    """

    path: str
    pixels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: list[dict] | None

    def to_dict(self, class_names: list[str]) -> dict:
        """For JSON: boxes as [x, y, width, height], classes by index and name."""
        height, width = self.pixels.shape[:2]
        objects = []
        for i, (box, score, index) in enumerate(zip(self.boxes.tolist(), self.scores.tolist(), self.classes.tolist())):
            x0, y0, x1, y1 = box
            objects.append(
                {"class": index, "name": class_names[index], "score": score, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            )
            if self.masks is not None:
                objects[-1]["segmentation"] = self.masks[i]
        return {"file_name": self.path, "height": height, "width": width, "objects": objects}

    def draw(self, class_names: list[str]) -> np.ndarray:
        """
        Returns:
            (sH, sW, 3) uint8 RGB: the image with boxes, masks, names and scores; a class has one colour everywhere.
            Small images are enlarged s times, so that names can be read, and very large ones reduced.
        """
        names, families = lettering(dict(enumerate(class_names)))
        classes = self.classes.tolist()
        labels = [f"{names[c]} {score:.2f}" for c, score in zip(classes, self.scores.tolist())]
        return draw_objects(self.pixels, self.boxes, self.masks, labels, [class_color(c) for c in classes], families)


class Predictor:
    """
    A trained model that predicts single images.

        predictor = Predictor(load_config("r50_balanced_sigmoid"), "model_final.pth")
        instances = predictor("photo.jpg")
        names = [predictor.class_names[i] for i in instances.pred_classes]

    Args:
        cfg: config that the model was trained with, from :func:`balanced_lvis.load_config`; it is not changed. The
            config of a Detectron2 model works too.
        weights: path of a checkpoint of balanced_lvis, or of any layout that Detectron2 loads.
        threshold: lowest score of a detection, in 0..1.
        thresholds: path of a JSON list of {"name", "threshold"} with the lowest score of each class, as ``balanced-lvis
            analyze-results`` writes it. ``threshold`` is used for classes with null.
        classes: K class names, name of a dataset or an annotation file, for a checkpoint without class names.
        trust: as for :func:`~balanced_lvis.engine.checkpoints.checkpoint_file.read_checkpoint`.

    Attributes:
        cfg: the config of the model.
        class_names: K names.

    Raises:
        InputError: if the checkpoint can't be read, does not fit the config, or the config requires something that
            this machine does not support.
    """

    def __init__(
        self,
        cfg,
        weights: str | os.PathLike,
        *,
        threshold: float = 0.5,
        thresholds: str | os.PathLike | None = None,
        classes=None,
        trust: bool = False,
    ):
        if not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold!r:.80}; it must be a number between 0 and 1.")
        cfg, weights = thawed(cfg), path_of(weights, "weights")
        check_weights(weights, "evaluation")
        self._thresholds = own = _class_thresholds(thresholds, threshold)
        # The model keeps higher scores only; a detection with exactly the threshold of its class is kept.
        self.cfg = _config_for_prediction(cfg, weights, threshold if own is None else own.just_below())
        check_speed(self.cfg)
        check_classification(self.cfg, training=False)
        self._model = build_model(self.cfg).eval()
        apply_speed(self.cfg, self._model)
        family = activation_class(self.cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME).family
        expected = Identity([], family, "", *kinds_of_heads(self.cfg))
        identity = load_for_evaluation(self._model, weights, expected, trust or self.cfg.MODEL.TRUST_WEIGHTS)
        self.class_names = _class_names(self.cfg, identity, classes)
        if own is not None:
            own.check(self.class_names, named=classes is not None or bool(identity and identity.class_names))
        self._augmentations = _test_augmentations(self.cfg)

    @classmethod
    def from_checkpoint(
        cls, weights: str | os.PathLike, config_file: str | os.PathLike = "", opts: Sequence[str] = (), **options
    ) -> Predictor:
        """
        Args:
            weights: path of a checkpoint.
            config_file: path or name of its config; empty: the ``config.yaml`` in its folder, where training writes it.
            opts: ``KEY VALUE`` overrides of the config, flat.
            options: keyword arguments of :class:`Predictor`.

        Raises:
            InputError: as :class:`Predictor`, and if there is no config.
        """
        weights = path_of(weights, "weights")
        check_weights(weights, "evaluation")
        return cls(load_config(config_file or _config_next_to(weights), opts), weights, **options)

    def __call__(self, image: str | os.PathLike | Image.Image | np.ndarray, channels: str = "BGR") -> Instances:
        """
        Args:
            image: path of an image; a PIL image; or an array (H, W, 3) of uint8.
            channels: order of the channels of an array: "BGR", as for Detectron2's predictor, or "RGB". Ignored for
                paths and PIL images, which know their own.

        Returns:
            the detections by falling score, on the CPU: pred_boxes, scores, pred_classes and, if the model has masks,
            pred_masks (n, H, W) of bool.

        Raises:
            InputError: if the image can't be read, or is not such an array.
        """
        return self._detect(_rgb_pixels(image, channels), self._model)

    def predict(self, path: str | os.PathLike) -> Prediction:
        """
        Detects the objects in an image file without keeping their masks at the size of the image.

        Args:
            path: of an image of any size and mode.

        Raises:
            InputError: if it can't be read.
        """
        pixels = read_image(path, "RGB")
        with unpasted(self._model) as model:
            return _prediction(os.fspath(path), pixels, self._detect(pixels, model))

    @torch.no_grad()
    def _detect(self, pixels: np.ndarray, model) -> Instances:
        height, width = pixels.shape[:2]
        given = pixels if self.cfg.INPUT.FORMAT == "RGB" else pixels[:, :, ::-1]
        augmented = transforms.AugInput(given)
        self._augmentations(augmented)
        image = torch.from_numpy(augmented.image.astype(np.float32).transpose(2, 0, 1).copy())
        (found,) = model([{"image": image, "height": height, "width": width}])
        instances = found["instances"].to("cpu")
        if self._thresholds is None:
            return instances
        return instances[instances.scores >= torch.from_numpy(self._thresholds.scores)[instances.pred_classes]]


def _rgb_pixels(image, channels: str) -> np.ndarray:
    """An image of any of the kinds that :class:`Predictor` takes as (H, W, 3) uint8 RGB."""
    if isinstance(image, (str, os.PathLike)):
        return read_image(image, "RGB")
    if isinstance(image, Image.Image):
        return pil_to_array(image, "RGB")
    if channels not in CHANNELS:
        raise InputError(f"channels is {channels!r}; it must be {' or '.join(map(repr, CHANNELS))}.")
    if not isinstance(image, np.ndarray):
        raise InputError(f"image is of type {type(image).__name__}; pass a path, a PIL image or a NumPy array.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(
            f"image is an array of shape {image.shape} and type {image.dtype}; it must be (H, W, 3) and uint8."
        )
    return image if channels == "RGB" else image[:, :, ::-1]


def predictions(predictor: Predictor, paths: Iterable[str], broken: list[str]) -> Iterator[Prediction | None]:
    """
    Predicts images one by one.

    Args:
        predictor: the model.
        paths: paths of the images.
        broken: list to which a line is appended for each image that fails.

    Yields:
        the prediction of each image; None if it fails.
    """
    for path in paths:
        yield attempt(path, broken, predictor.predict, path)


def attempt(path: str, failed: list[str], work: Callable[..., T], *arguments) -> T | None:
    """
    Calls a function for one image; an error is recorded, so that the other images are still processed.

    Args:
        path: path of the image.
        failed: list to which a line is appended, and logged, if ``work`` raises.
        work: called with ``arguments``.

    Returns:
        the result of ``work``; None if it raises.

    Raises:
        StorageError: raised by ``work``, because a full disk affects all images.
    """
    try:
        return work(*arguments)
    except StorageError:
        raise
    except Exception as error:  # any error of a decoder, a model or a renderer
        reason = one_line(reason_of(error))
        failed.append(reason if isinstance(error, InputError) else f"Image {one_line(path)}: {reason}")
        logger.warning("%s", failed[-1])
        return None


def _class_thresholds(path: str | os.PathLike | None, default: float) -> ClassThresholds | None:
    return None if path is None else read_thresholds(path_of(path, "thresholds"), default)


def _config_for_prediction(cfg, weights: str, threshold: float):
    if not cfg.MODEL.ROI_HEADS.NUM_CLASSES:  # there is no dataset to infer it from
        raise InputError(
            "MODEL.ROI_HEADS.NUM_CLASSES is 0 in the config, which infers it from the training data; use the "
            "config.yaml that training wrote to its OUTPUT_DIR, or set it to the number of classes of the checkpoint."
        )
    box_head = cfg.MODEL.ROI_BOX_HEAD
    if cfg.MODEL.ROI_HEADS.NAME in _LONG_TAIL_HEADS:  # a config of Detectron2
        cfg.MODEL.ROI_HEADS.NAME = _LONG_TAIL_HEADS[cfg.MODEL.ROI_HEADS.NAME]
        box_head.ACTIVATION.NAME = "sigmoid" if box_head.USE_SIGMOID_CE else "softmax"
        box_head.USE_SIGMOID_CE = box_head.USE_FED_LOSS = False
    # For a calibration, which may also read a file next to the weights.
    cfg.MODEL.WEIGHTS = weights
    if not cfg.MODEL.CLASS_PRIOR.FILE:
        cfg.MODEL.CLASS_PRIOR.FILE = saved_prior(weights)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = threshold
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.info("No GPU is available: predicting on the CPU.")
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def _test_augmentations(cfg) -> transforms.AugmentationList:
    """
    The augmentations of evaluation.

    Raises:
        InputError: if the size of images was changed in the config of a LazyConfig, where it is only a record.
    """
    if cfg.get("LAZY", {}).get("FILE"):
        augmentations = build_mapper(cfg, False).augmentations
        resize = next((one for one in augmentations.augs if isinstance(one, transforms.ResizeShortestEdge)), None)
        size = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        if resize and (resize.short_edge_length[0], resize.max_size) != size:
            raise InputError(
                f"INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST are {size}, but the size of images is that of the LazyConfig; "
                "set dataloader.test.mapper.augmentations there."
            )
        return augmentations
    return transforms.AugmentationList([ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)])


def _config_next_to(weights: str) -> str:
    folder = os.path.dirname(os.path.abspath(weights))
    for place in (folder, os.path.dirname(folder)):  # averaged weights are in a folder below
        if os.path.isfile(found := os.path.join(place, CONFIG)):
            return found
    raise InputError(
        f"There is no config.yaml next to {weights!r}, where training writes it; pass the config that the checkpoint "
        "was trained with, such as --config-file r50_balanced_sigmoid."
    )


def _class_names(cfg, identity: Identity | None, given) -> list[str]:
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    names = identity.class_names if identity else []
    if given is not None:
        names = class_names_of(given) if isinstance(given, (str, os.PathLike)) else list(given)
    if not names:
        logger.warning("The checkpoint has no class names; numbers are used. Pass --classes to name them.")
        return [f"class {i}" for i in range(num_classes)]
    if len(names) != num_classes:
        raise InputError(
            f"--classes: {len(names)} class names for a model of {num_classes} classes; pass those it was trained with."
        )
    return names


def _prediction(path: str, pixels: np.ndarray, instances: Instances) -> Prediction:
    return Prediction(
        path, pixels, instances.pred_boxes.tensor.numpy(), instances.scores.numpy(), instances.pred_classes.numpy(),
        instance_rles(instances) if instances.has("pred_masks") else None,
    )  # fmt: skip
