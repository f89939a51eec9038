"""Outputs of a model are written in their order, whichever thread does it."""

import threading

import pytest
import torch
from detectron2.structures import Boxes, Instances

from balanced_lvis.evaluation import model_outputs
from balanced_lvis.evaluation.model_outputs import OutputWriter
from balanced_lvis.utils.errors import InputError


class Recorder:
    """In place of a ``DetectionWriter``."""

    def __init__(self):
        self.images, self.threads = [], set()

    def write(self, image_id, boxes, scores, classes, rles):
        if image_id == "bad":
            raise OSError("no space left")
        self.images.append((image_id, scores.tolist()))
        self.threads.add(threading.current_thread())


class OnGPU(Instances):
    """Instances whose boxes say that they are on a GPU."""

    def to(self, *args, **kwargs):
        return Instances(self.image_size, **self.get_fields())

    def __getattr__(self, name):
        return _OnGPU() if name == "pred_boxes" else super().__getattr__(name)


class _OnGPU:
    device = torch.device("cuda")


def output(kind, score):
    return {"instances": kind((8, 8), pred_boxes=Boxes(torch.ones(1, 4)), scores=torch.tensor([score]),
                              pred_classes=torch.tensor([0]))}  # fmt: skip


@pytest.mark.parametrize("kind", [Instances, OnGPU])
def test_images_are_written_in_their_order(kind):
    recorder = Recorder()
    with OutputWriter(recorder) as writer:
        for i in range(20):
            writer.write([{"image_id": 2 * i}, {"image_id": 2 * i + 1}], [output(kind, 0.5), output(kind, 0.25)])
    assert recorder.images == [(i, [0.25 if i % 2 else 0.5]) for i in range(40)]
    is_main = recorder.threads == {threading.main_thread()}
    assert is_main == (kind is Instances) and len(recorder.threads) == 1


def test_the_model_is_not_let_get_far_ahead():
    recorder, gate = Recorder(), threading.Event()
    write = recorder.write
    recorder.write = lambda *args: (gate.wait(), write(*args))
    writer = OutputWriter(recorder)
    for i in range(model_outputs.BATCHES_BEHIND):
        writer.write([{"image_id": i}], [output(OnGPU, 0.5)])
    ahead = threading.Thread(target=writer.write, args=([{"image_id": "next"}], [output(OnGPU, 0.5)]))
    ahead.start()
    ahead.join(0.3)
    assert ahead.is_alive() and not recorder.images
    gate.set()
    ahead.join()
    writer.close()
    assert [image for image, _ in recorder.images] == [*range(model_outputs.BATCHES_BEHIND), "next"]


@pytest.mark.parametrize("kind", [Instances, OnGPU])
def test_an_error_of_writing_is_raised(kind):
    with pytest.raises(OSError, match="no space left"), OutputWriter(Recorder()) as writer:
        writer.write([{"image_id": "bad"}], [output(kind, 0.5)])


def test_no_thread_is_left_after_an_error():
    recorder, gate = Recorder(), threading.Event()
    write = recorder.write
    recorder.write = lambda *args: (gate.wait(), write(*args))
    writer = OutputWriter(recorder)
    for name in ("bad", "later", "last"):
        writer.write([{"image_id": name}], [output(OnGPU, 0.5)])
    before = threading.active_count()
    gate.set()
    with pytest.raises(OSError, match="no space left"):
        writer.close()
    assert threading.active_count() == before - 1


def test_a_model_without_instances_is_refused():
    with pytest.raises(InputError, match="returns sem_seg instead of instances"):
        OutputWriter(Recorder()).write([{"image_id": 1}], [{"sem_seg": None}])
