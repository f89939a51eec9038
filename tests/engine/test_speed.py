"""Speed settings: off by default, checked with a remedy, and equal up to rounding."""

import shutil

import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from balanced_lvis.config import default_config
from balanced_lvis.engine.optimizer import build_optimizer
from balanced_lvis.engine.speed import apply_speed, check_speed
from balanced_lvis.engine.trainer import Trainer
from balanced_lvis.utils.errors import InputError


def test_all_are_off_by_default():
    cfg = default_config()
    assert not any((cfg.MODEL.CHANNELS_LAST, cfg.MODEL.TF32, cfg.MODEL.COMPILE_BACKBONE, cfg.SOLVER.OPTIMIZER_KERNEL))


def test_an_unknown_kernel_is_refused_before_any_work(tiny_cfg):
    tiny_cfg.SOLVER.OPTIMIZER_KERNEL = "fast"
    with pytest.raises(InputError, match="OPTIMIZER_KERNEL is 'fast'; valid: '', 'foreach', 'fused'"):
        check_speed(tiny_cfg)


def test_compiling_without_a_compiler_is_refused_with_the_remedy(tiny_cfg, monkeypatch):
    tiny_cfg.MODEL.COMPILE_BACKBONE = True
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="COMPILE_BACKBONE is True, which needs a C\\+\\+ compiler"):
        check_speed(tiny_cfg)


def losses_and_gradients(cfg, state=None):
    torch.manual_seed(0)
    model = build_model(cfg)
    model.load_state_dict(state or model.state_dict())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    apply_speed(cfg, model)
    mapper = DatasetMapper(cfg, is_train=True, augmentations=[])
    batch = [mapper(record) for record in DatasetCatalog.get("rendered_train") if record["annotations"]][:2]
    torch.manual_seed(0)
    with EventStorage():
        losses = model.train()(batch)
    sum(losses.values()).backward()
    return model, state, losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_channels_last_changes_last_digits_only(tiny_cfg):
    _, state, losses, gradients = losses_and_gradients(tiny_cfg)
    tiny_cfg.MODEL.CHANNELS_LAST = True
    model, _, faster, of_faster = losses_and_gradients(tiny_cfg, state)
    assert list(model.state_dict()) == list(state)
    for name, loss in losses.items():
        torch.testing.assert_close(faster[name], loss, rtol=1e-4, atol=1e-5)
    assert set(of_faster) == set(gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(of_faster[name], gradient, rtol=1e-2, atol=1e-4)
    weight = model.backbone.fpn_output2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_compiled_backbone_keeps_its_names_and_changes_last_digits_only(tiny_cfg):
    """With a single layer: compiling a ResNet takes minutes."""
    tiny_cfg.MODEL.COMPILE_BACKBONE = True
    model = torch.nn.Module()
    model.backbone = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
    names = list(model.state_dict())
    x = torch.randn(5, 3)
    expected = model.backbone(x).detach()
    apply_speed(tiny_cfg, model)
    assert list(model.state_dict()) == names
    assert model.backbone._compiled_call_impl is not None
    torch.testing.assert_close(model.backbone(x), expected)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("kernel", ["foreach", "fused"])
def test_kernels_make_the_updates_of_torchs_own_choice(tiny_cfg, name, kernel):
    found = []
    for chosen in ("", kernel):
        tiny_cfg.SOLVER.OPTIMIZER, tiny_cfg.SOLVER.OPTIMIZER_KERNEL = name, chosen
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3))
        optimizer = build_optimizer(tiny_cfg, model)
        assert optimizer.defaults[chosen] if chosen else True
        for _ in range(3):
            model(torch.ones(2, 5)).square().sum().backward()
            optimizer.step()
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


def test_tf32_is_for_matrix_products(tiny_cfg):
    before = torch.get_float32_matmul_precision()
    tiny_cfg.MODEL.TF32 = True
    try:
        apply_speed(tiny_cfg, torch.nn.Linear(1, 1))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_run_trains_with_what_its_config_asks_for(tiny_cfg):
    tiny_cfg.MODEL.CHANNELS_LAST, tiny_cfg.SOLVER.OPTIMIZER_KERNEL = True, "fused"
    trainer = Trainer(tiny_cfg)
    trainer.resume_or_load(resume=False)
    assert trainer.optimizer.defaults["fused"]
    assert trainer.model.backbone.fpn_output2.weight.is_contiguous(memory_format=torch.channels_last)
    trainer.train()
