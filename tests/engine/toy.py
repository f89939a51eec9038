"""A model small enough to train in no time, also in separate processes."""

import balanced_lvis  # isort: skip  # noqa: F401  a spawned process has no Detectron2 before it
import torch
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from balanced_lvis.engine.step import TrainingStep

NAN, SPIKE = float("nan"), 1e38


class Toy(torch.nn.Module):
    """A model with losses that are means over images, batch statistics, and inputs that decide what is finite."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm = torch.nn.BatchNorm1d(3)
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, batch):
        x = torch.stack([record["x"] for record in batch])
        out = self.linear(self.norm(x))
        return {"loss_a": out.square().mean(), "loss_b": (x * self.linear.weight[0]).abs().mean()}


def record(seed, value=None):
    x = torch.randn(3, generator=torch.Generator().manual_seed(seed))
    return {"x": x if value is None else torch.full((3,), value), "file_name": f"{seed}.jpg"}


def batches(*seeds, size=2):
    return [[record(2 * seed + i) for i in range(size)] for seed in seeds]


def train(trainer, iterations):
    with EventStorage() as storage:
        for trainer.iter in range(iterations):
            storage.iter = trainer.iter
            trainer.run_step()
    return storage


def train_on_rank(folder):
    """Three steps of two processes; the second has a bad image in the second step."""
    rank = torch.distributed.get_rank()
    data = batches(*range(10 * rank, 10 * rank + 6), size=2)
    if rank == 1:
        data[2] = [record(99, NAN), record(1)]
    model = Toy()
    model.norm.eval()
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    trainer = TrainingStep(wrapped, data, torch.optim.SGD(model.parameters(), 0.1), accumulate=2)
    model.norm.eval()
    train(trainer, 3)
    torch.save({"skipped": trainer.skipped, **model.state_dict()}, f"{folder}/{rank}.pth")
