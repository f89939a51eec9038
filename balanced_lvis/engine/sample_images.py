"""Images of predictions next to the ground truth, drawn while training."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import inference_context
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from ..data.dataset_records import choose_records
from ..data.images.image_files import annotated_size, read_image
from ..data.mapper import build_mapper
from ..data.rle import rle_of
from ..drawing.lettering import lettering
from ..drawing.objects import class_color, draw_objects
from ..drawing.selection import best_detections
from ..evaluation.model_outputs import instance_rles, unpasted
from .processes.watchdog import note

logger = logging.getLogger(__name__)


class SampleImages:
    """
    Draws ``TEST.SAMPLE_IMAGES`` images of each dataset in ``DATASETS.TEST``: ground truth left, predictions right.

    The images are the same in every evaluation and run. As many predictions are drawn as there are objects: those with
    the highest scores after class-agnostic NMS at 0.5 IoU.

    Args:
        cfg: the config.
        model: the model; may be wrapped in ``DistributedDataParallel``.
    """

    def __init__(self, cfg, model: nn.Module):
        self._cfg = cfg
        self._model = model
        self._mapper = build_mapper(cfg, False)
        self._records: dict[str, list[dict]] = {}
        self._class_names: dict[str, list[str]] = {}

    def __call__(self) -> None:
        """Put the images into Detectron2's event storage, on rank 0."""
        if not comm.is_main_process():
            return
        storage, names = get_event_storage(), self._cfg.DATASETS.TEST
        for name in names:
            prefix = f"{name}/samples" if len(names) > 1 else "samples"
            for record, pixels in self._drawn(name):
                storage.put_image(f"{prefix}/{record['image_id']}", pixels.transpose(2, 0, 1))

    def _drawn(self, name: str) -> Iterator[tuple[dict, np.ndarray]]:
        if name not in self._records:
            self._records[name] = choose_records(name, self._cfg.TEST.SAMPLE_IMAGES)
            self._class_names[name] = _class_names(name, self._cfg.MODEL.ROI_HEADS.NUM_CLASSES)
        # Outside, because other models than a GeneralizedRCNN keep their mode in ``unpasted``.
        with torch.no_grad(), inference_context(self._model), unpasted(self._model) as detector:
            for record in self._records[name]:
                note("drawing sample predictions", slow=True)
                (output,) = detector([self._mapper(record)])
                yield record, _side_by_side(record, output["instances"].to("cpu"), self._class_names[name])


def _class_names(dataset: str, num_classes: int) -> list[str]:
    """Those of a dataset that was read, which may have none."""
    if names := MetadataCatalog.get(dataset).get("thing_classes"):
        return names
    logger.warning("Dataset %s has no class names; sample images have numbers. Set its thing_classes.", dataset)
    return [f"class {i}" for i in range(num_classes)]


def _side_by_side(record: dict, found: Instances, class_names: list[str]) -> np.ndarray:
    """(sH, about 2 sW, 3) uint8 RGB."""
    pixels = read_image(record["file_name"], "RGB", annotated_size(record))
    objects = [one for one in record["annotations"] if not one.get("iscrowd", 0)]
    boxes = [BoxMode.convert(one["bbox"], one["bbox_mode"], BoxMode.XYXY_ABS) for one in objects]
    masks = [rle_of(one["segmentation"], *pixels.shape[:2]) for one in objects if "segmentation" in one]
    classes = [one["category_id"] for one in objects]
    names, families = lettering(dict(enumerate(class_names)))
    left = draw_objects(
        pixels, np.array(boxes, np.float32).reshape(-1, 4), masks if len(masks) == len(objects) else None,
        [names[c] for c in classes], [class_color(c) for c in classes], families,
    )  # fmt: skip
    found = found[best_detections(found.pred_boxes.tensor, found.scores, len(objects))]
    classes = found.pred_classes.tolist()
    right = draw_objects(
        pixels, found.pred_boxes.tensor.numpy(), instance_rles(found) if found.has("pred_masks") else None,
        [f"{names[c]} {score:.2f}" for c, score in zip(classes, found.scores.tolist())],
        [class_color(c) for c in classes], families,
    )  # fmt: skip
    margin = np.full((len(left), max(2, left.shape[1] // 100), 3), 255, np.uint8)
    return np.concatenate([left, margin, right], axis=1)
