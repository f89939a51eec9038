import torch

from balanced_lvis.activations import build_activation
from balanced_lvis.engine.bilevel_step import _average
from balanced_lvis.meta import MetaReweighter
from balanced_lvis.priors import ClassPrior
from tests.engine.processes.test_ranks import on_ranks


def learn_on_rank(folder):
    """Updates of the class weights on batches of this rank, in one of two processes."""
    rank = torch.distributed.get_rank()
    meta, layer = reweighter()
    for index in range(3):
        meta.step(layer, batch(rank + 2 * index), batch(50 + rank + 2 * index), inner_lr=0.5, average=_average)
    torch.save(meta.weights.psi.detach(), f"{folder}/psi_{rank}.pth")


def reweighter():
    torch.manual_seed(0)
    prior = ClassPrior(tuple("abcde"), [1, 5, 20, 60, 150], 200)
    return MetaReweighter(build_activation("balanced_sigmoid", 5, prior)), torch.nn.Linear(3, 6)


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(12, 3, generator=generator), torch.randint(0, 6, (12,), generator=generator)


def test_all_processes_learn_the_same_class_weights_from_the_mean_of_their_gradients(tmp_path):
    on_ranks(2, tmp_path, learn_on_rank, tmp_path)
    psi = [torch.load(tmp_path / f"psi_{rank}.pth", weights_only=True) for rank in range(2)]
    assert torch.equal(*psi)

    meta, layer = reweighter()
    for index in range(3):
        losses = [meta.outer_loss(layer, batch(r + 2 * index), batch(50 + r + 2 * index), 0.5) for r in range(2)]
        (meta.weights.psi.grad,) = torch.autograd.grad(sum(losses) / 2, [meta.weights.psi])
        meta.optimizer.step()
    torch.testing.assert_close(psi[0], meta.weights.psi.detach(), rtol=1e-5, atol=1e-6)
