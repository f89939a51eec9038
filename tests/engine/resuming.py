"""Runs that are resumed, and what shows that they equal uninterrupted ones."""

import torch

from balanced_lvis.engine.trainer import Trainer


def train_recorded(cfg, resume=False, stop=None):
    """The losses of a run's iterations (iterations, losses), and its final weights."""
    trainer = Trainer(cfg, stop)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    losses = [
        [value for value, _ in history.values()]
        for name, history in sorted(trainer.storage.histories().items())
        if name.startswith(("loss_", "total_loss"))
    ]
    return torch.tensor(losses).T, trainer.checkpointer.model.state_dict()


def assert_same_weights(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def assert_resumed_equals(resumed, whole, start):
    """Two results of :func:`train_recorded`: a run from iteration ``start`` on, and one that was not interrupted."""
    assert torch.equal(resumed[0], whole[0][start:])
    assert_same_weights(resumed[1], whole[1])


def continue_from(folder, iteration):
    """Make the checkpoint of ``iteration`` the newest in the folder of a finished run."""
    (folder / "model_final.pth").unlink()
    (folder / "last_checkpoint").write_text(f"model_{iteration:07d}.pth")
