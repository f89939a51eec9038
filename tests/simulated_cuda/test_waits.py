"""How often the host waits for the device. Run by test_gpu_tests.py with the simulated device."""

import os

import pytest
import torch

from balanced_lvis.activations import activation_names, build_activation
from balanced_lvis.priors import ClassPrior
from tests.simulated_cuda.state import STATE
from tests.simulated_cuda.waits import CONTENDERS, Size, measure, tables

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(os.environ.get("SIMCUDA") != "1", reason="counts the waits of the simulated device"),
]
SMALL = {"depth": 18, "channels": 32}


@pytest.fixture(scope="module")
def found():
    return measure(Size(**SMALL))


def test_the_host_waits_no_more_often_than_with_detectron2(found):
    assert all(counts["ours"].total <= counts["stock"].total for counts in found.values()), tables(found)


def test_waits_do_not_grow_with_classes_rois_objects_or_detections(found):
    larger = measure(Size(classes=40, rois=64, objects=7, detections=20, **SMALL), ["ours"])
    for work, counts in found.items():
        assert larger[work]["ours"].waits == counts["ours"].waits, work


def test_the_tables_have_a_row_for_every_place(found):
    text = tables(found)
    for work, counts in found.items():
        assert f"| {work} | {counts['stock'].total} | {counts['ours'].total} |" in text
    places = sum(len(counts[contender].waits) for counts in found.values() for contender in CONTENDERS)
    assert sum(line.count("`aten::") + line.count("`torchvision::") for line in text.splitlines()) == places


@pytest.mark.parametrize("name", activation_names())
def test_no_training_loss_waits(name):
    activation = build_activation(name, 6, ClassPrior(tuple("abcdef"), [1, 5, 20, 60, 150, 400], 500)).to("cuda")
    logits = torch.randn(50, activation.num_outputs).to("cuda").requires_grad_()
    gt_classes = torch.randint(0, 7, (50,)).to("cuda")
    activation.prepare()
    STATE.reset()
    activation.loss(logits, gt_classes, torch.ones_like(logits[:, 0])).backward()
    assert not STATE.waits
