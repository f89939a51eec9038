"""How the trainer wraps its model for several processes."""

import pytest
import torch

from balanced_lvis.engine import trainer


@pytest.mark.parametrize(("device", "ids"), [("cuda", [3]), ("cuda:0", [3]), ("cpu", None)])
def test_a_model_is_wrapped_on_the_current_device(device, ids, monkeypatch):
    """Where SLURM shows each task only its own GPU, the local rank is not the number of the device."""
    monkeypatch.setattr(trainer.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(trainer, "DistributedDataParallel", lambda model, **options: options)
    wrapped = trainer._data_parallel(torch.nn.Linear(1, 1), device)
    assert wrapped == {"device_ids": ids, "broadcast_buffers": False}


def test_the_model_of_one_process_is_not_wrapped():
    model = torch.nn.Linear(1, 1)
    assert trainer._data_parallel(model, "cpu") is model
