"""The moving average of weights: definition, checkpoints and evaluation."""

import json

import pytest
import torch

from balanced_lvis.engine.checkpoints.weights import load_for_evaluation
from balanced_lvis.engine.ema import WeightAverage
from balanced_lvis.engine.trainer import Trainer
from tests.engine.resuming import continue_from
from tests.engine.toy import Toy


def changed(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))
            else:
                tensor.fill_(seed)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_the_average_is_what_its_definition_says(decay):
    model, average = Toy(), WeightAverage(decay)
    average.start(model)
    expected = {name: tensor.clone().double() for name, tensor in model.state_dict().items()}
    for n in range(12):
        changed(model, n)
        average.update()
        kept = min(decay, (1 + n) / (10 + n))
        for name, tensor in model.state_dict().items():
            old = expected[name]
            expected[name] = kept * old + (1 - kept) * tensor if tensor.is_floating_point() else tensor.double()
    for name, tensor in average.weights.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_the_model_gets_its_own_weights_back():
    model, average = Toy(), WeightAverage(0.9)
    average.start(model)
    changed(model, 1)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RuntimeError), average.applied(model):
        assert torch.equal(model.linear.weight, average.weights["linear.weight"])
        assert not torch.equal(model.linear.weight, own["linear.weight"])
        raise RuntimeError
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())


def trained(cfg, resume=False):
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_it_is_evaluated_saved_resumed_to_the_bit_and_loaded_as_any_checkpoint(tiny_cfg, tmp_path):
    tiny_cfg.merge_from_list(["MODEL.EMA.ENABLED", True, "SOLVER.CHECKPOINT_PERIOD", 2, "SEED", 3])
    trainer = trained(tiny_cfg)
    output = tmp_path / "out"
    assert trainer.average.updates == 4
    averaged = {name: tensor.clone() for name, tensor in trainer.average.weights.items()}
    assert any(not torch.equal(averaged[name], tensor) for name, tensor in trainer.model.state_dict().items())
    results = json.loads((output / "ema" / "results.json").read_text())
    assert set(results) == {"bbox", "segm"}
    assert trainer.results["ema"].keys() == results.keys()

    continue_from(output, 1)
    resumed = trained(tiny_cfg, resume=True)
    assert resumed.start_iter == 2
    assert all(torch.equal(averaged[name], tensor) for name, tensor in resumed.average.weights.items())

    model = Trainer.build_model(tiny_cfg)
    load_for_evaluation(model, str(output / "ema" / "model_final.pth"), trainer.identity)
    assert all(torch.equal(averaged[name], tensor) for name, tensor in model.state_dict().items())


def test_without_it_nothing_changes(tiny_cfg):
    assert Trainer(tiny_cfg).average is None


def test_every_batch_of_an_evaluation_is_a_sign_of_life(tiny_cfg, monkeypatch):
    noted = []
    monkeypatch.setattr("balanced_lvis.engine.trainer.note", lambda stage, **how: noted.append((stage, how)))
    Trainer.test(tiny_cfg, Trainer.build_model(tiny_cfg))
    assert noted == [("evaluating", {"slow": True})] * 12
