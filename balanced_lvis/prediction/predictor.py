"""A trained model on images of no dataset: objects are found, named and drawn."""

from __future__ import annotations

import colorsys
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances

from ..activations import activation_class
from ..config import load_config
from ..data.broken_images import reason_of
from ..data.class_names import class_names_of
from ..data.image_files import read_image
from ..data.mapper import ResizeShortestEdge
from ..engine.checkpoints.identity import Identity
from ..engine.checkpoints.weights import check_weights, load_for_evaluation
from ..engine.saved_prior import saved_prior
from ..engine.speed import apply_speed, check_speed
from ..evaluation.model_outputs import instance_rles, unpasted
from ..modeling.box_predictor import check_classification
from ..utils.errors import InputError, StorageError
from ..utils.text import one_line
from .drawing import draw_objects
from .lettering import lettering

logger = logging.getLogger(__name__)

T = TypeVar("T")
_OURS_FOR = {"StandardROIHeads": "LongTailROIHeads", "CascadeROIHeads": "LongTailCascadeROIHeads"}


@dataclass
class Prediction:
    """
    What was found in a picture.

    Attributes:
        path: of the picture.
        pixels: (H, W, 3) uint8 RGB, upright.
        boxes: (n, 4) float32 x0, y0, x1, y1 in pixels, by falling score.
        scores: (n,) float32.
        classes: (n,) int64 in 0..K-1.
        masks: n RLEs, {"size": [H, W], "counts": str}; None of a model without masks.
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
        return draw_objects(self.pixels, self.boxes, self.masks, labels, [_color(c) for c in classes], families)


class Predictor:
    """
    A checkpoint, ready for pictures.

    Args:
        weights: a checkpoint of ours, or of any program that Detectron2's models are loaded from.
        config_file: empty for the ``config.yaml`` in the checkpoint's folder, where training leaves it.
        opts: ``KEY VALUE`` overrides of the config, flat.
        threshold: the least score to be shown, in 0..1.
        classes: K class names, a data set's name or an annotation file, where the checkpoint doesn't tell.
        trust: as for :func:`.checkpoint_file.read_checkpoint`.

    Attributes:
        class_names: K names.

    Raises:
        InputError: if the checkpoint can't be had, there is no config, they don't fit each other, or what the config
            asks for speed can't be had here.
    """

    def __init__(self, weights, config_file="", opts=(), *, threshold: float = 0.5, classes=None, trust=False):
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold}; scores are between 0 and 1.")
        check_weights(str(weights), "evaluation")
        self.cfg = _config_for_prediction(str(weights), str(config_file), opts, threshold)
        check_speed(self.cfg)
        check_classification(self.cfg, training=False)
        self._model = build_model(self.cfg).eval()
        apply_speed(self.cfg, self._model)
        identity = Identity([], activation_class(self.cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME).family, "")
        told = load_for_evaluation(self._model, str(weights), identity, trust or self.cfg.MODEL.TRUST_WEIGHTS)
        self.class_names = _class_names(self.cfg, told, classes)
        inputs = self.cfg.INPUT
        self._resize = ResizeShortestEdge([inputs.MIN_SIZE_TEST] * 2, inputs.MAX_SIZE_TEST)

    @torch.no_grad()
    def __call__(self, path: str | os.PathLike) -> Prediction:
        """
        Args:
            path: of a picture, of any size and mode.

        Raises:
            InputError: if it can't be read.
        """
        pixels = read_image(path, "RGB")
        height, width = pixels.shape[:2]
        given = pixels if self.cfg.INPUT.FORMAT == "RGB" else pixels[:, :, ::-1]
        resized = self._resize.get_transform(given).apply_image(given)
        record = {"image": torch.from_numpy(resized.astype(np.float32).transpose(2, 0, 1).copy())}
        with unpasted(self._model) as model:
            (found,) = model([{**record, "height": height, "width": width}])
        return _prediction(os.fspath(path), pixels, found["instances"].to("cpu"))


def predictions(predictor, paths: Iterable[str], broken: list[str]) -> Iterator[Prediction | None]:
    """
    One by one, None for an image that can't be read or predicted, of which ``broken`` gets a line.
    """
    for path in paths:
        yield attempt(path, broken, predictor, path)


def attempt(path: str, failed: list[str], work: Callable[..., T], *arguments) -> T | None:
    """
    Work on one image, whose failure costs the others nothing.

    Args:
        path: of the image.
        failed: gets a line, which is also logged, if ``work`` raises.
        work: is called with ``arguments``.

    Returns:
        what ``work`` returns; None if it raises.

    Raises:
        StorageError: as ``work``: a disk that is full fails for all images.
    """
    try:
        return work(*arguments)
    except StorageError:
        raise
    except Exception as error:  # whatever a decoder, a model or a renderer makes of one image
        reason = one_line(reason_of(error))
        failed.append(reason if isinstance(error, InputError) else f"Image {one_line(path)}: {reason}")
        logger.warning("%s", failed[-1])
        return None


def _config_for_prediction(weights: str, config_file: str, opts, threshold: float):
    config_file = config_file or _config_beside(weights)
    cfg = load_config(config_file, opts)
    if not cfg.MODEL.ROI_HEADS.NUM_CLASSES:  # pictures have no data set to be asked
        raise InputError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is 0 in {config_file}, to be taken from the training data; use the "
            "config.yaml that training left in its OUTPUT_DIR, or set it to the checkpoint's."
        )
    box_head = cfg.MODEL.ROI_BOX_HEAD
    if cfg.MODEL.ROI_HEADS.NAME in _OURS_FOR:  # a config of Detectron2 itself
        cfg.MODEL.ROI_HEADS.NAME = _OURS_FOR[cfg.MODEL.ROI_HEADS.NAME]
        box_head.ACTIVATION.NAME = "sigmoid" if box_head.USE_SIGMOID_CE else "softmax"
        box_head.USE_SIGMOID_CE = box_head.USE_FED_LOSS = False
    if not cfg.MODEL.CLASS_PRIOR.FILE:
        cfg.MODEL.CLASS_PRIOR.FILE = saved_prior(weights)  # of a calibration
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = threshold
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.info("No GPU is at hand: predicting on the CPU.")
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def _config_beside(weights: str) -> str:
    folder = os.path.dirname(os.path.abspath(weights))
    for place in (folder, os.path.dirname(folder)):  # averaged weights are in a folder below
        if os.path.isfile(found := os.path.join(place, "config.yaml")):
            return found
    raise InputError(
        f"There is no config.yaml beside {weights!r}, as training leaves it; name the config that the checkpoint was "
        "trained with: --config-file configs/...yaml."
    )


def _class_names(cfg, told: Identity | None, given) -> list[str]:
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    names = told.class_names if told else []
    if given is not None:
        names = class_names_of(given) if isinstance(given, (str, os.PathLike)) else list(given)
    if not names:
        logger.warning("The checkpoint doesn't tell its class names: they are numbers. --classes names them.")
        return [f"class {i}" for i in range(num_classes)]
    if len(names) != num_classes:
        raise InputError(
            f"{len(names)} class names for a model of {num_classes} classes; give those it was trained for."
        )
    return names


def _prediction(path: str, pixels: np.ndarray, instances: Instances) -> Prediction:
    return Prediction(
        path, pixels, instances.pred_boxes.tensor.numpy(), instances.scores.numpy(), instances.pred_classes.numpy(),
        instance_rles(instances) if instances.has("pred_masks") else None,
    )  # fmt: skip


def _color(index: int) -> tuple[float, float, float]:
    """A colour of a class: hues that differ most between neighbours, by the golden ratio."""
    return colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.75, 0.95)
