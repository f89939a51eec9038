"""The suites of complete models: their comparison, and random weights with the workload of a trained model."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.modeling import build_model
from detectron2.structures import pairwise_iou
from detectron2.structures.boxes import Boxes
from detectron2.utils.events import EventStorage

from benchmarks import models, trained
from benchmarks.boxes import proposals_around
from tests.common import CONFIGS


def step(**losses):
    return {"losses": [{"loss_cls": 2.0, "loss_mask": 0.7, **losses}]}


def test_losses_agree_up_to_rounding_and_in_every_measurement():
    assert models.losses_agree([step(), step()], [step(loss_cls=2.0 + 1e-6)])
    assert not models.losses_agree([step(), step()], [step(), step(loss_cls=2.001)])
    assert not models.losses_agree([step()], [step(loss_box_reg=0.1)])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_both_contenders_train_in_the_precision_of_the_config(dtype):
    job = {"config_file": str(CONFIGS / "r50_rfs.yaml"), "device": "cpu",
           "opts": ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", dtype]}  # fmt: skip
    for contender in models.CONTENDERS:
        cfg = models._config({**job, "contender": contender})
        assert models.autocast_dtype(cfg) == getattr(torch, dtype)
        assert models.autocast_dtype(models._config({**job, "contender": contender, "opts": []})) is None


class Doubles(torch.nn.Module):
    """A model that records the dtype of its computations."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2, 2))
        self.device = torch.device("cpu")

    def forward(self, batch):
        self.dtype = (self.weight @ self.weight).dtype
        return {"loss": self.weight.sum()}


@pytest.mark.parametrize(("autocast", "dtype"), [(None, torch.float32), (torch.bfloat16, torch.bfloat16)])
def test_stocks_trainer_computes_in_that_precision(autocast, dtype):
    model = Doubles()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = models._stock_trainer(model, iter(lambda: [{}], None), optimizer, autocast)
    with EventStorage():
        trainer.iter = 0
        trainer.run_step()
    assert model.dtype == dtype


@pytest.fixture
def detections():
    boxes, scores = np.float32([[1, 2, 3, 4]]), np.float64([0.5])
    return boxes, scores, np.array([7]), [{"size": [4, 5], "counts": "abc"}]


@pytest.mark.parametrize("changed", [
    (np.float32([[1, 2, 3, np.nextafter(np.float32(4), np.float32(5))]]), None, None, None),
    (None, np.float64([np.nextafter(0.5, 1)]), None, None),
    (None, None, np.array([8]), None),
    (None, None, None, [{"size": [4, 5], "counts": "abd"}]),
])  # fmt: skip
def test_detections_are_equal_only_to_the_last_bit(detections, changed):
    same = tuple(np.copy(x) if isinstance(x, np.ndarray) else x for x in detections)
    assert models.digest(*detections) == models.digest(*same)
    other = [new if new is not None else old for old, new in zip(detections, changed)]
    a, b = ({"detections": [models.digest(*found)]} for found in (detections, other))
    assert models.detections_equal([a, a], [a])
    assert not models.detections_equal([a, a], [b])


def test_masks_agree_up_to_rounding(tmp_path):
    for name, values in {"a": [0.2, 0.9], "b": [0.2, 0.9 + 5e-6], "c": [0.2, 0.91]}.items():
        np.save(tmp_path / name, np.array(values))
    assert models.masks_agree(tmp_path / "a.npy", tmp_path / "b.npy")
    assert not models.masks_agree(tmp_path / "a.npy", tmp_path / "c.npy")


def test_a_thousand_distinct_proposals_fill_a_quarter_of_the_rois():
    generator = torch.Generator().manual_seed(1)
    objects = torch.tensor([[10.0, 10.0, 60.0, 90.0], [300.0, 100.0, 420.0, 200.0]])
    proposals = proposals_around(objects, (480, 640), generator)
    assert len(proposals.unique(dim=0)) == 1000
    assert (proposals[:, :2] >= 0).all() and (proposals[:, 2:] <= torch.tensor([640, 480])).all()
    foreground = (pairwise_iou(Boxes(objects), Boxes(proposals)).amax(0) >= 0.5).sum()
    assert 128 <= foreground <= 1000 - 384


def test_a_model_trains_on_the_proposals_of_the_batch_that_it_is_given(tiny_cfg):
    model = build_model(tiny_cfg)
    mapper = DatasetMapper(tiny_cfg, is_train=True, augmentations=[])
    records = [mapper(r) for r in DatasetCatalog.get("rendered_train") if r["annotations"]][:2]
    trained.propose_around_objects(model, [records[:1], records[1:]])
    images = [model.preprocess_image([record]) for record in records]
    with torch.no_grad():
        model.eval()
        found = [model.proposal_generator(i, model.backbone(i.tensor))[0][0].proposal_boxes for i in images]
    for boxes, record in zip(found, records):
        assert len(boxes) == 1000
        gt_boxes = record["instances"].gt_boxes
        assert (pairwise_iou(gt_boxes, boxes) >= 0.5).any(1).all()


def test_a_measurement_leaves_the_precision_of_matrix_products_as_it_was(monkeypatch):
    """On a GPU, the next contender is measured in the same process."""
    monkeypatch.setattr(models, "_run_job", lambda job: torch.set_float32_matmul_precision("high"))
    models.run_job({})
    assert torch.get_float32_matmul_precision() == "highest"


def test_on_a_gpu_inference_is_timed_with_tf32_and_compared_without(monkeypatch, tmp_path):
    """TF32 rounds Detectron2's mask predictor, a convolution, but not the matrix product of balanced_lvis."""

    class Model(torch.nn.Module):
        def forward(self, batch):
            seen.append(torch.backends.cudnn.allow_tf32)
            return []

    seen = []
    monkeypatch.setattr(models.trained, "detect_as_trained", lambda model, images: [torch.zeros(1)])
    monkeypatch.setattr(models, "_timed", lambda job, step: step() or {})
    job = {"device": "cuda", "contender": "stock", "batch": 1, "folder": str(tmp_path)}
    models._infer(job, None, Model(), [[]])
    assert seen == [True, False]
