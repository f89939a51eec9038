"""Detectron2 evaluator for the LVIS metrics of several calibrations of one model, in one pass over the images."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from ..data.registered_files import evaluation_file_of
from ..utils.errors import InputError
from .backends import GroundTruth, check_backend, evaluate_tasks, ranks
from .detection_store import Detections, DetectionWriter
from .gathering import gather_on_main
from .lvis_api import LVIS, MAX_DETECTIONS_PER_IMAGE, possible_tasks, tasks_of
from .lvis_evaluator import category_ids_of, load_ground_truth
from .model_outputs import OutputWriter, at_output_size, instance_rles
from .shared_regions import FILES, Selections, SelectionWriter


class GridEvaluator(DatasetEvaluator):
    """
    Stores the detections of all settings on the disk, with shared boxes and masks, and evaluates any of them.

    The metrics of a setting are those of :class:`.lvis_evaluator.LVISEvaluator` for its detections. The ground truth is
    read once.

    Args:
        dataset_name: name of the registered dataset, as for ``LVISEvaluator``.
        folder: folder for detections, which :meth:`close` removes. Each rank needs its own.
        num_settings: number of settings.
        backend: "fast" or "official".

    Attributes:
        detections: of all settings, from :meth:`reset` to :meth:`close`.

    Raises:
        InputError: if the dataset can't be evaluated, or if the backend is unknown or not installed.
    """

    detections: Selections

    def __init__(self, dataset_name: str, folder: str | os.PathLike, num_settings: int, backend: str = "fast"):
        self._json_file = evaluation_file_of(dataset_name)
        check_backend(backend)
        self._metadata = MetadataCatalog.get(dataset_name)
        self._folder = os.fspath(folder)
        self._num_settings = num_settings
        self._backend = backend
        self._output: Any = None  # from reset() to close()
        self._truths: dict[frozenset[int], LVIS] = {}

    def reset(self):
        """Discard all detections."""
        self.close()
        regions, selections = (os.path.join(self._folder, name) for name in ("regions", "selections"))
        self._output = _GridWriter(DetectionWriter(regions), SelectionWriter(selections))
        category_ids = category_ids_of(self._metadata)
        self.detections = Selections(selections, Detections(regions), self._num_settings, category_ids)

    def judged_categories(self) -> JudgedCategories:
        """
        The categories that count in each image, for all ranks. Rank 0 reads the annotations.

        Raises:
            InputError: if the dataset has no annotations.
        """
        own = None
        if comm.is_main_process():
            truth = GroundTruth(self._truth)
            category_ids = category_ids_of(self._metadata)
            if category_ids is None:
                category_ids = list(range(1, max(self._truth.cats) + 1))
            judged = truth.judged()[:, ranks(truth.category_ids, category_ids)]
            own = JudgedCategories(truth.image_ids, judged)
        return comm.all_gather(own)[0]

    def image_ids(self) -> list[int]:
        """Sorted ids of all images in the annotation file."""
        return sorted(self._truth.imgs)

    def possible_tasks(self, with_masks: bool) -> tuple[str, ...]:
        """The tasks that can be evaluated; ``with_masks``: whether the model has masks."""
        return possible_tasks(tasks_of(with_masks), self._truth, self._metadata.name)

    def process(self, inputs: list[dict], outputs: Sequence):
        """
        Args:
            inputs: inputs of the model, with ``image_id``.
            outputs: :class:`balanced_lvis.modeling.grid_detector.GridDetections` per image.
        """
        self._output.write(inputs, outputs)

    def evaluate(self) -> None:
        """
        Gather the detections of all ranks on rank 0, where :meth:`metrics` can be called afterwards.

        Raises:
            StorageError: if the stored detections are damaged.
        """
        self._output.finish()
        gather_on_main(self.detections.regions.folder)
        gather_on_main(self.detections.folder, FILES)
        # Some ranks may have had no image.
        self._output.with_masks = any(comm.all_gather(self._output.with_masks))
        if comm.is_main_process():
            self.detections.require_whole()

    def metrics(self, setting: int, image_ids: Collection[int] | None = None) -> dict[str, dict[str, float]]:
        """
        Args:
            setting: index of the setting.
            image_ids: images to evaluate on; None for all.

        Returns:
            {"bbox": {metric: percent}, "segm": {...}}; without "segm" if the model or the annotations have no masks.
        """
        truth = self._truth if image_ids is None else self._truth_of(frozenset(image_ids))
        tasks = self.possible_tasks(self._output.with_masks)
        found = evaluate_tasks(truth, self.detections.of(setting, image_ids), tasks, self._backend)
        return {task: metrics for task, metrics, _ in found}

    @cached_property
    def _truth(self) -> LVIS:
        lvis_gt = load_ground_truth(self._metadata.name, self._json_file)
        if lvis_gt is None:
            raise InputError(f"{self._metadata.name} has no annotations to evaluate calibrations on.")
        return lvis_gt

    def _truth_of(self, image_ids: frozenset[int]) -> LVIS:
        if image_ids not in self._truths:
            self._truths[image_ids] = self._truth.only(image_ids)
        return self._truths[image_ids]

    def close(self) -> None:
        """Remove the detections."""
        if self._output is not None:
            self._output.abandon()
            self._output = None
        shutil.rmtree(self._folder, ignore_errors=True)


class JudgedCategories:
    """
    The detections that can change metrics: those of categories whose presence in their image is known.

    Args:
        image_ids: (I,) sorted ids of the images.
        judged: (I, K) bool by image and class index.
    """

    def __init__(self, image_ids: np.ndarray, judged: np.ndarray):
        self._rows = {image_id: row for row, image_id in enumerate(image_ids.tolist())}
        self._judged = torch.from_numpy(judged)

    def __call__(self, image_id: int, classes: torch.Tensor) -> torch.Tensor:
        """
        Args:
            image_id: id of the image.
            classes: (D,) int64 class indices of all its detections.

        Returns:
            (D,) bool, True for detections to keep. All are kept if the image is not in the annotation file, and if
            there are more than 300: the limit of LVIS, over all categories, comes first.
        """
        if image_id not in self._rows or len(classes) > MAX_DETECTIONS_PER_IMAGE:
            return torch.ones_like(classes, dtype=torch.bool)
        return self._judged[self._rows[image_id]].to(classes.device)[classes]


class _GridOutput(NamedTuple):
    """The detections of an image at the output size; selections as in ``SelectionWriter``, of tensors."""

    regions: Instances
    selections: Sequence[tuple[torch.Tensor, ...]]

    def to(self, device: torch.device) -> _GridOutput:
        return _GridOutput(
            self.regions.to(device), [tuple(part.to(device) for part in each) for each in self.selections]
        )


class _GridWriter(OutputWriter):
    """Writes the regions and the selections of images in order, in a thread if they are on a GPU."""

    def __init__(self, regions: DetectionWriter, selections: SelectionWriter):
        super().__init__(regions)
        self._selections = selections

    def write(self, inputs, outputs):
        found = [(record["image_id"], _placed(output, record)) for record, output in zip(inputs, outputs)]
        self.with_masks |= any(output.regions.has("pred_masks") for _, output in found)
        self._write_later(found, any(output.regions.pred_boxes.device.type == "cuda" for _, output in found))

    def _write(self, found):
        for image_id, (regions, selections) in found:
            boxes = regions.pred_boxes.tensor.numpy().astype("float32")
            boxes[:, 2:] -= boxes[:, :2]
            unused = [0] * len(boxes)
            self._writer.write(
                image_id, boxes, unused, unused, instance_rles(regions) if regions.has("pred_masks") else None
            )
            self._selections.write([tuple(part.numpy() for part in each) for each in selections])

    def finish(self) -> None:
        """Wait until everything is written, and close the stores."""
        self.close()
        self._writer.close()
        self._selections.close()

    def abandon(self) -> None:
        """End without waiting for what is to be written."""
        super().abandon()
        self._writer.abandon()
        self._selections.abandon()


def _placed(output, record: dict) -> _GridOutput:
    """Detectron2's post-processing of the regions: those that become empty are dropped, with their detections."""
    regions = output.regions
    number = len(regions)
    regions.place = torch.arange(number, device=regions.pred_boxes.device)
    regions = at_output_size(regions, record)
    kept = regions.get("place")
    regions.remove("place")
    place = kept.new_full((number,), -1)
    place[kept] = torch.arange(len(kept), device=kept.device)
    selections = []
    for selection in output.selections:
        region = place[selection.regions]
        left = region >= 0
        selections.append((region[left], selection.scores[left], selection.classes[left]))
    return _GridOutput(regions, selections)
