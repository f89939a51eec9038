"""Parsers of untrusted files, each with a valid file and a mutation."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import load_lvis_json

from balanced_lvis.activations import foreground_offset
from balanced_lvis.calibration import LogitStatistics
from balanced_lvis.classification import checkpoints as classification_checkpoints
from balanced_lvis.classification import load_config as load_classification_config
from balanced_lvis.classification.data.image_set import ImageSet
from balanced_lvis.config import load_config
from balanced_lvis.data.custom.convert import convert
from balanced_lvis.data.dataset_records import load_records
from balanced_lvis.data.index.building import stamp_of
from balanced_lvis.data.preflight import preflight
from balanced_lvis.data.samplers import class_repeat_factors
from balanced_lvis.data.validation import validate_annotations
from balanced_lvis.engine.checkpoints.checkpoint_file import read_checkpoint
from balanced_lvis.engine.checkpoints.checkpoint_folder import newest_checkpoint
from balanced_lvis.engine.checkpoints.mmdetection_config import check_supported, config_in, settings_in
from balanced_lvis.evaluation.backends import evaluate_tasks
from balanced_lvis.evaluation.lvis_api import LVIS
from balanced_lvis.evaluation.submission import ImageList, read_predictions, validate_submission
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError

from .mutations import mutated_bytes, mutated_json, mutated_pickle, mutated_torch_file, mutated_yaml
from .stored import UNDAMAGED, drawn_damage, export_damaged


@dataclass(frozen=True)
class Target:
    """
    A parser, which may only raise :class:`balanced_lvis.utils.errors.InputError`.

    Attributes:
        name: type of file.
        file_name: name of such a file.
        good: valid content.
        spoil: mutates the content.
        parse: reads the file completely and uses its content.
    """

    name: str
    file_name: str
    good: bytes
    spoil: Callable[[bytes, random.Random], bytes]
    parse: Callable[[Path], object]


def targets() -> list[Target]:
    """All targets."""
    return [
        Target("annotations, for training", "annotations.json", _ANNOTATIONS, mutated_json, _train_on),
        Target("annotations, validated", "annotations.json", _ANNOTATIONS, mutated_json, _check_annotations),
        Target("annotations, custom datasets", "annotations.json", _ANNOTATIONS, mutated_json, _convert),
        Target("annotations, for submissions", "annotations.json", _ANNOTATIONS, mutated_json, ImageList),
        Target("submissions, validated", "results.json", _RESULTS, mutated_json, _validate),
        Target("results, evaluated", "results.json", _RESULTS, mutated_json, _evaluate),
        Target("class prior", "class_prior.json", json.dumps(_prior()).encode(), mutated_json, _use_prior),
        Target(
            "statistics of logits", "a.json", json.dumps(_statistics()).encode(), mutated_json, LogitStatistics.load
        ),
        Target("config", "config.yaml", yaml.safe_dump(_config()).encode(), mutated_yaml, load_config),
        Target("checkpoint, .pth", "model.pth", _torch_file(_checkpoint()), mutated_torch_file, read_checkpoint),
        Target("checkpoint, .pkl", "model.pkl", _pickle(), mutated_pickle, read_checkpoint),
        Target(
            "checkpoint of image classification",
            "model.pth",
            _torch_file(_classification_checkpoint()),
            mutated_torch_file,
            _use_classification_checkpoint,
        ),
        Target("config of mmdetection", "config.py", _MMDETECTION, mutated_bytes, _use_mmdetection_config),
        Target("checkpoint to resume", "model_0000001.pth", _torch_file(_checkpoint()), mutated_torch_file, _resume),
        Target("chunks of an export", "damage.json", UNDAMAGED, drawn_damage, export_damaged),
    ]


_MMDETECTION = b"""model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(type='ResNet', depth=50, style='pytorch'),
    rpn_head=dict(anchor_generator=dict(scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64])),
    roi_head=dict(mask_head=dict(predictor_cfg=dict(type='NormedConv2d', tempearture=20))))
img_norm_cfg = {'mean': (103.53, 116.28, 123.675), 'to_rgb': False}
"""


def _annotations() -> dict:
    """Annotations with all fields of LVIS-1.0."""
    triangle = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]
    images = [
        {
            "id": i, "width": 20, "height": 10, "coco_url": f"http://images.cocodataset.org/train2017/{i:012d}.jpg",
            "neg_category_ids": [2], "not_exhaustive_category_ids": [1], "license": 1, "date_captured": "2013",
        }
        for i in (7, 3, 5)
    ]  # fmt: skip
    categories = [
        {"id": i, "name": name, "frequency": "r", "image_count": 2, "instance_count": 2, "synset": f"{name}.n.01",
         "synonyms": [name], "def": name}
        for i, name in enumerate(("cat", "dog", "emu"), start=1)
    ]  # fmt: skip
    annotations = [
        {"id": i, "image_id": image, "category_id": category, "bbox": [1.0, 1.0, 8.0, 8.0], "area": 32.0,
         "segmentation": [triangle]}
        for i, (image, category) in enumerate(((3, 1), (3, 3), (7, 1), (5, 2)), start=1)
    ]  # fmt: skip
    return {"images": images, "categories": categories, "annotations": annotations, "info": {}, "licenses": []}


_ANNOTATIONS = json.dumps(_annotations()).encode()


def _results() -> list[dict]:
    mask = {"size": [10, 20], "counts": "P146000000000\\3"}
    return [
        {"image_id": image, "category_id": category, "score": score, "segmentation": dict(mask)}
        for image, category, score in ((3, 1, 0.9), (3, 2, 0.5), (5, 1, 0.25), (7, 3, 1.0))
    ]


_IMAGES = "images.json"
_RESULTS = json.dumps(_results()).encode()


def _prior() -> dict:
    counts = {"image_count": 1, "instance_count": 2, "shown_image_count": 1.5, "shown_instance_count": 2.5}
    counts["fractal_dimension"] = 0.5
    classes = [{"name": name, **{k: n * i for k, n in counts.items()}} for i, name in enumerate("abcd", start=1)]
    shown = {"sampler": "RepeatFactorTrainingSampler", "num_images": 9.5}
    content = {"format": "balanced_lvis class prior 1", "num_images": 9, "counted": "all images", "shown": shown}
    return {**content, "classes": classes}


def _statistics() -> dict:
    classes = [{"name": name, "mean": -1.5 * i, "std": 0.5 * i} for i, name in enumerate("abcd", start=1)]
    return {"format": "balanced_lvis logit statistics 1", "weights": "a.pth", "num_rois": 9, "classes": classes}


def _config() -> dict:
    return {
        "MODEL": {
            "WEIGHTS": "a.pth", "MASK_ON": True, "PIXEL_MEAN": [1.0, 2.0, 3.0],
            "ROI_HEADS": {"NAME": "LongTailROIHeads", "NUM_CLASSES": 5, "SCORE_THRESH_TEST": 0.1},
            "ROI_BOX_HEAD": {"ACTIVATION": {"NAME": "softmax", "BALANCED_SIGMOID": {"FORM": "centred"}}},
            "ANCHOR_GENERATOR": {"SIZES": [[28], [48]]},
        },
        "DATASETS": {"TRAIN": ["a", "b"], "TEST": []},
        "SOLVER": {"STEPS": [1, 2], "BASE_LR": 0.1, "META": {"ENABLED": True}},
        "INPUT": {"MIN_SIZE_TRAIN": [8]}, "SEED": 1, "VERSION": 2,
    }  # fmt: skip


def _checkpoint() -> dict:
    return {
        "model": {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.ones(3), "n": torch.tensor(3)},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "trainer": {"iteration": 1, "run": "a", "seed": 5, "data": {"seed": 1, "start": 2}},
        "balanced_lvis": {"class_names": ["a", "b"], "family": "sigmoid", "stage": "an end-to-end training"},
        "iteration": 1,
    }


_CLASSIFICATION = load_classification_config("classification/characters/softmax")
_IMAGE_SET = ImageSet(np.zeros((3, 1, 1, 3), np.uint8), np.array([0, 0, 1]), ("a", "b"))


def _classification_checkpoint() -> dict:
    return {
        "model": {"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.ones(3)},
        "step": {"optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}},
        "iteration": 1,
        "config": classification_checkpoints.plain_values(_CLASSIFICATION),
        "data": classification_checkpoints.described_data(_IMAGE_SET),
    }


def _torch_file(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _pickle() -> bytes:
    """A checkpoint in the format of Detectron2's model zoo."""
    return pickle.dumps({"model": {"a": np.ones((2, 3), np.float32), "b": np.arange(3)}, "__author__": "x"}, protocol=2)


def _train_on(path: Path) -> None:
    """Start of a training run: the preflight checks, then all records."""
    name = "fuzzed"
    with contextlib.suppress(FileNotFoundError):
        path.with_name(f"{path.name}.index").unlink()
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)
    images = path.parent / "train2017"
    if not images.exists():  # training needs images
        images.mkdir()
        for image in json.loads(_ANNOTATIONS)["images"]:
            (images / image["coco_url"].rsplit("/", 1)[1]).touch()
    DatasetCatalog.register(name, functools.partial(load_lvis_json, str(path), f"{path.parent}/"))
    preflight([name], allow_missing=True)
    for record in load_records(name):
        inside = Path(record["file_name"]).resolve().is_relative_to(path.parent.resolve())
        assert inside, f"{record['file_name']} is outside the image folder"


def _use_prior(path: Path) -> None:
    prior = ClassPrior.load(path)
    prior.groups()
    class_repeat_factors(prior, 0.1)
    foreground_offset(prior)
    prior.save(path.with_name("saved.json"))
    assert ClassPrior.load(path.with_name("saved.json")).image_count.tolist() == prior.image_count.tolist()


def _convert(path: Path) -> None:
    convert(str(path), str(path.parent), io.StringIO(), None, stamp_of(str(path)))


def _images_of(path: Path) -> ImageList:
    images = path.with_name(_IMAGES)
    if not images.exists():
        images.write_bytes(_ANNOTATIONS)
    return ImageList(images)


def _evaluate(path: Path) -> None:
    """Evaluate results as ``train_net.py --predictions`` does."""
    store = path.with_name("store")
    shutil.rmtree(store, ignore_errors=True)
    detections, tasks, _ = read_predictions(path, _images_of(path), str(store), progress=False)
    for _ in evaluate_tasks(LVIS(str(path.with_name(_IMAGES))), detections, tasks, "fast"):
        pass


def _validate(path: Path) -> None:
    report = validate_submission(path, _images_of(path))
    str(report)
    if report.errors:
        raise InputError("The submission has errors.")


def _check_annotations(path: Path) -> None:
    report = validate_annotations(path, path.parent)
    str(report)
    json.dumps(report.to_dict())


def _resume(path: Path) -> None:
    found = newest_checkpoint(path.parent)
    if found:
        read_checkpoint(found)


def _use_classification_checkpoint(path: Path) -> None:
    content = classification_checkpoints.read_checkpoint(path)
    classification_checkpoints.check_fits_evaluation(content["config"], _CLASSIFICATION, path)
    classification_checkpoints.check_same_data(content, _IMAGE_SET, path)
    classification_checkpoints.load_model(torch.nn.Linear(4, 3), content, path)


def _use_mmdetection_config(path: Path) -> None:
    config = config_in({"config": path.read_text(encoding="latin-1")}) or {}
    settings_in(config)
    for seesaw in (False, True):
        with contextlib.suppress(InputError):
            check_supported("file.pth", config, seesaw)
