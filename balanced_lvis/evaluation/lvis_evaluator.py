"""Detectron2's LVIS evaluator, with results per category."""

from __future__ import annotations

import itertools
import logging
import math
import os

from detectron2.evaluation import LVISEvaluator as Detectron2LVISEvaluator
from detectron2.utils.logger import create_small_table

from ..data.checks import check_lvis_format
from ..io import write_json
from .detections import to_results
from .lvis_api import evaluate_on_lvis

logger = logging.getLogger(__name__)


class LVISEvaluator(Detectron2LVISEvaluator):
    """
    Evaluate boxes and masks with the LVIS API.

    Collecting predictions is Detectron2's own. Added are a clear error for a data set that the LVIS rules can't
    judge, AP of 0 (not NaN) for a model that detects nothing, ``per_category_ap.json`` in ``output_dir``, and masks
    that were never pasted.

    Args:
        dataset_name: a registered data set whose metadata has ``json_file``, a file in LVIS format.
        output_dir: where predictions and AP per category are written; nothing is where it is None.
        distributed: gather the predictions of all ranks.

    Raises:
        InputError: if the data set is not in LVIS format.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None, distributed: bool = True):
        check_lvis_format(dataset_name)
        super().__init__(dataset_name, output_dir=output_dir, distributed=distributed)

    def process(self, inputs, outputs):
        """
        As Detectron2's; ``pred_masks`` may be a ``ROIMasks`` too, as a model in
        :func:`balanced_lvis.evaluation.detections.unpasted` leaves them.
        """
        for record, output in zip(inputs, outputs):
            prediction = {"image_id": record["image_id"]}
            if "instances" in output:
                instances = output["instances"].to(self._cpu_device)
                prediction["instances"] = to_results(instances, record["image_id"])
            if "proposals" in output:
                prediction["proposals"] = output["proposals"].to(self._cpu_device)
            self._predictions.append(prediction)

    def _eval_predictions(self, predictions):
        results = list(itertools.chain.from_iterable(p["instances"] for p in predictions))
        self._to_dataset_category_ids(results)
        if self._output_dir:
            write_json(os.path.join(self._output_dir, "lvis_instances_results.json"), results)
        if not self._do_evaluation:
            logger.info("%s has no annotations: predictions saved, nothing evaluated.", self._metadata.name)
            return
        if not results:
            logger.warning("The model detected nothing in %d images.", len(predictions))
        tasks = self._tasks or (("bbox", "segm") if "segmentation" in next(iter(results), {}) else ("bbox",))
        per_category = {}
        for task in tasks:
            logger.info("Evaluating %d %s predictions with the LVIS API", len(results), task)
            self._results[task], per_category[task] = evaluate_on_lvis(self._lvis_api, results, task)
            logger.info("Evaluation results for %s:\n%s", task, create_small_table(self._results[task]))
        if self._output_dir:
            write_json(os.path.join(self._output_dir, "per_category_ap.json"), self._category_table(per_category))

    def _to_dataset_category_ids(self, results):
        """From contiguous indices 0..K-1 to the annotation file's ids, in place."""
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if mapping is None:
            for result in results:
                result["category_id"] += 1
            return
        back = {contiguous: original for original, contiguous in mapping.items()}
        for result in results:
            result["category_id"] = back[result["category_id"]]

    def _category_table(self, per_category: dict[str, dict[int, float]]) -> list[dict]:
        rows = []
        for category_id, category in sorted(self._lvis_api.cats.items()):
            row = {key: category.get(key) for key in ("id", "name", "frequency", "image_count")}
            for task, averages in per_category.items():
                value = averages.get(category_id, math.nan)
                row[task] = None if math.isnan(value) else value
            rows.append(row)
        return rows
