"""What the trainer does as Detectron2's ``DefaultTrainer``: wrapping, order of hooks, expected results."""

import pytest
import torch
from detectron2.engine import DefaultTrainer
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer, PeriodicWriter

from balanced_lvis.engine import trainer
from balanced_lvis.engine.checkpoints.saving import SaveHook
from balanced_lvis.engine.hooks import EvaluationHook, WritersHook
from balanced_lvis.engine.schedule import scaled_linearly
from balanced_lvis.engine.trainer import Trainer


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


def test_hooks_are_in_the_order_of_detectron2(tiny_cfg):
    tiny_cfg.TEST.PRECISE_BN.ENABLED = True
    same = {SaveHook: PeriodicCheckpointer, EvaluationHook: EvalHook, WritersHook: PeriodicWriter}
    expected = [type(hook) for hook in DefaultTrainer(tiny_cfg)._hooks]
    found = [same.get(type(hook), type(hook)) for hook in Trainer(tiny_cfg)._hooks]
    assert [kind for kind in found if kind in expected] == expected


def test_a_checkpoint_has_the_precise_batch_statistics_that_are_evaluated(tiny_cfg, monkeypatch):
    tiny_cfg.merge_from_list(["TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 1, "SOLVER.MAX_ITER", 1])
    name = "backbone.bottom_up.stem.conv1.norm.running_mean"
    evaluated = []
    monkeypatch.setattr(Trainer, "test", lambda self, cfg, model: evaluated.append(model.state_dict()[name].clone()))
    before = []
    monkeypatch.setattr(trainer.PreciseBN, "update_stats", _marked(trainer.PreciseBN.update_stats, name, before))
    Trainer(tiny_cfg).train()
    saved = torch.load(f"{tiny_cfg.OUTPUT_DIR}/model_final.pth", weights_only=True)["model"][name]
    assert torch.equal(saved, evaluated[0]) and not torch.equal(saved, before[0])


def _marked(update, name, before):
    def marked(hook):
        before.append(hook.trainer.model.state_dict()[name].clone())
        update(hook)

    return marked


def test_results_that_are_not_the_expected_ones_end_a_run_with_status_1(tiny_cfg, monkeypatch):
    monkeypatch.setattr(Trainer, "test", lambda *_: {"bbox": {"AP": 12.0}})
    tiny_cfg.SOLVER.MAX_ITER = 1
    tiny_cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 12.1, 0.2]]
    run = Trainer(tiny_cfg)
    assert run.train() == run.results == {"bbox": {"AP": 12.0}}
    tiny_cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 14.0, 0.2]]
    with pytest.raises(SystemExit) as end:
        Trainer(tiny_cfg).train()
    assert end.value.code == 1


def test_a_config_is_scaled_once(tiny_cfg):
    tiny_cfg.SOLVER.REFERENCE_WORLD_SIZE = 1
    scaled = scaled_linearly(tiny_cfg, 2)
    assert scaled.SOLVER.IMS_PER_BATCH == 2 * tiny_cfg.SOLVER.IMS_PER_BATCH
    assert scaled_linearly(scaled, 2) is scaled
