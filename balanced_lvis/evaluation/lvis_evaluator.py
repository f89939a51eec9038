"""Detectron2 evaluator for the LVIS metrics, which stores detections on the disk."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from ..data.annotations.annotation_reader import FEDERATED_LISTS
from ..data.frequency import missing_groups, source_of_groups
from ..data.registered_files import evaluation_file_of
from ..utils.errors import InputError
from ..utils.io import write_json
from ..utils.once import once
from ..utils.run_files import DETECTIONS, PER_CATEGORY
from .backends import check_backend, evaluate_tasks
from .category_limit import CategoryLimit
from .detection_store import Detections, DetectionWriter
from .gathering import gather_on_main
from .lvis_api import LVIS, possible_tasks, tasks_of
from .model_outputs import OutputWriter

logger = logging.getLogger(__name__)


class LVISEvaluator(DatasetEvaluator):
    """
    Evaluate boxes and masks by the LVIS rules.

    Unlike Detectron2's ``LVISEvaluator``, it never holds all predictions as Python objects: each rank writes compact
    arrays to the disk, rank 0 gathers them, and only rank 0 reads the ground truth. A dataset that can't be evaluated
    by the LVIS rules is an error, AP of a model that detects nothing is 0 (not NaN), and AP per category is written.

    Args:
        dataset_name: name of the registered dataset in LVIS format, or in COCO format if it was converted
            (:func:`balanced_lvis.data.registered_files.evaluation_file_of`).
        output_dir: folder for ``lvis_instances_results.json`` and ``per_category_ap.json``, and for detections during
            the evaluation; None to write nothing permanently.
        distributed: gather the predictions of all ranks.
        backend: "fast" or "official"; see :mod:`balanced_lvis.evaluation.backends`.
        per_category: number of detections of each category that are stored over the dataset, besides the 300 best of
            each image; 0 for all.

    Raises:
        InputError: if the dataset can't be evaluated, or if the backend is unknown or not installed.
    """

    def __init__(
        self, dataset_name: str, output_dir: str | None = None, distributed: bool = True, backend: str = "fast",
        per_category: int = 0,
    ):  # fmt: skip
        self._json_file = evaluation_file_of(dataset_name)
        check_backend(backend)
        self._metadata = MetadataCatalog.get(dataset_name)
        self._output_dir = output_dir
        self._distributed = distributed
        self._backend = backend
        self._per_category = per_category
        self._writer: Any = None  # from reset() to evaluate()
        self._output: Any = None

    def reset(self):
        """Discard all detections."""
        if self._writer is not None:
            self._output.abandon()
            self._writer.abandon()
            self._detections().delete()
        self._writer = DetectionWriter(self._folder())
        self._output = OutputWriter(self._writer, CategoryLimit(self._per_category) if self._per_category else None)

    def _folder(self) -> str:
        """A folder next to the results, as they are on a large disk; files of a killed run are overwritten."""
        if not self._output_dir:
            return tempfile.mkdtemp(prefix="detections_")
        return os.path.join(self._output_dir, f".detections_rank{comm.get_rank()}")

    def process(self, inputs: list[dict], outputs: list[dict]):
        """
        Args:
            inputs: inputs of the model, with ``image_id``.
            outputs: outputs of the model, with "instances".

        Raises:
            InputError: if the outputs have no instances.
        """
        self._output.write(inputs, outputs)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """
        Returns:
            {"bbox": {metric: percent}, "segm": {...}}, empty without annotations; None on ranks other than 0.

        Raises:
            StorageError: if the stored detections are damaged.
        """
        detections = self._detections()
        try:
            self._output.close()
            self._writer.close()
            if self._distributed:
                gather_on_main(detections.folder)
                # Some ranks may have had no image.
                self._output.with_masks = any(comm.all_gather(self._output.with_masks))
                if not comm.is_main_process():
                    return None
            detections.require_whole()
            return self._evaluate(detections)
        finally:
            self._output.abandon()
            self._writer.abandon()
            self._writer = None
            detections.delete()

    def _detections(self) -> Detections:
        return Detections(self._writer.folder, category_ids_of(self._metadata))

    def _evaluate(self, detections: Detections) -> dict[str, dict[str, float]]:
        if not detections.num_images:
            logger.warning("No images were evaluated.")
            return {}
        if self._output_dir:
            detections.save_json(os.path.join(self._output_dir, DETECTIONS))
        return self.evaluate_stored(detections, tasks_of(self._output.with_masks))

    def evaluate_stored(self, detections: Detections, tasks: Sequence[str]) -> dict[str, dict[str, float]]:
        """
        Evaluate stored detections from any source; called in one process.

        Args:
            detections: detections with the category ids of the dataset.
            tasks: "bbox", "segm" or both. "segm" is dropped if annotations have no masks.

        Returns:
            as :meth:`evaluate`.

        Raises:
            InputError: if the annotation file does not define rare, common and frequent categories, or if it has no
                masks and only "segm" is requested.
        """
        lvis_gt = load_ground_truth(self._metadata.name, self._json_file)
        if lvis_gt is None:
            return {}
        if not len(detections):
            logger.warning("There are no detections in %d images.", detections.num_images)
        results, per_category = {}, {}
        tasks = possible_tasks(tasks, lvis_gt, self._metadata.name)
        logger.info("Evaluating %d detections, %s (%s)", len(detections), " and ".join(tasks), self._backend)
        for task, metrics, averages in evaluate_tasks(lvis_gt, detections, tasks, self._backend):
            results[task], per_category[task] = metrics, averages
            logger.info("Evaluation results for %s:\n%s", task, create_small_table(metrics))
        if self._output_dir:
            table = category_table(lvis_gt, per_category)
            write_json(os.path.join(self._output_dir, PER_CATEGORY), table)
        return results


def load_ground_truth(name: str, json_file: str) -> LVIS | None:
    """
    Args:
        name: name of the dataset, for messages.
        json_file: its annotation file for evaluation.

    Returns:
        None for a file without annotations, which can't be evaluated.

    Raises:
        InputError: if the file does not define rare, common and frequent categories, or does not list which of them are
            absent from an image.
    """
    json_file = PathManager.get_local_path(json_file)
    lvis_gt = LVIS(json_file)
    if not lvis_gt.anns:
        logger.info("%s has no annotations: predictions are saved and not evaluated.", name)
        return None
    if problem := missing_groups([*lvis_gt.cats.values()]) or _missing_lists(lvis_gt):
        raise InputError(f"Annotations {json_file} can't be evaluated: {problem}")
    _log_groups(name, source_of_groups(lvis_gt.dataset))
    return lvis_gt


def _missing_lists(lvis_gt: LVIS) -> str:
    """Which image lacks a list of categories that the rules of LVIS need; empty if none does."""
    for image in lvis_gt.imgs.values():
        for name in FEDERATED_LISTS:
            if not isinstance(image.get(name), list):
                return (
                    f"image {image['id']} has no list {name!r}; add it to all images, or name the file under "
                    "DATASETS.CUSTOM of a config, which converts files in COCO format (docs/custom_dataset.md)."
                )
    return ""


@once
def _log_groups(name: str, source: str) -> None:
    """Log the source of the groups once per run."""
    logger.info("%s: rare, common and frequent categories (APr, APc, APf) are defined by %s.", name, source)


def category_ids_of(metadata) -> list[int] | None:
    """
    Args:
        metadata: metadata of a registered dataset.

    Returns:
        category id in the annotation file of each class index 0..K-1; None if it is the index + 1.
    """
    mapping = metadata.get("thing_dataset_id_to_contiguous_id")
    return None if mapping is None else sorted(mapping, key=mapping.get)


def category_table(lvis_gt: LVIS, per_category: dict[str, dict[int, float]]) -> list[dict]:
    """
    Args:
        per_category: {task: {category id: AP in percent, or NaN}}.

    Returns:
        one row per category, sorted by id: id, name, frequency, image_count, and AP of each task, None without ground
        truth.
    """
    rows = []
    for category_id, category in sorted(lvis_gt.cats.items()):
        row = {key: category.get(key) for key in ("id", "name", "frequency", "image_count")}
        for task, averages in per_category.items():
            value = averages.get(category_id, math.nan)
            row[task] = None if math.isnan(value) else value
        rows.append(row)
    return rows
