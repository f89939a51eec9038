"""Activation checkpointing changes memory and time, and nothing else."""

import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from balanced_lvis.engine.speed import apply_speed, check_speed
from balanced_lvis.utils.errors import InputError


def step(cfg, parts, state=None):
    """A forward and backward pass: model, losses, gradients, and the bytes that autograd has kept."""
    torch.manual_seed(0)
    cfg.MODEL.ACTIVATION_CHECKPOINTING = parts
    model = build_model(cfg)
    if state:
        model.load_state_dict(state)
    apply_speed(cfg, model)
    mapper = DatasetMapper(cfg, is_train=True, augmentations=[])
    batch = [mapper(record) for record in DatasetCatalog.get("rendered_train") if record["annotations"]][:2]
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with EventStorage(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = model.train()(batch)
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return model, losses, gradients, sum(kept.values())


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("parts", [("backbone",), ("box_head",), ("backbone", "box_head")])
def test_losses_gradients_and_running_statistics_stay_the_same_with_less_kept(tiny_cfg, parts):
    state = {name: value.clone() for name, value in build_model(tiny_cfg).state_dict().items()}
    model, losses, gradients, kept = step(tiny_cfg, (), state)
    other, found, of_other, kept_by_other = step(tiny_cfg, parts, state)
    assert_equal(found, losses)
    assert_equal(of_other, gradients)
    assert_equal(other.state_dict(), model.state_dict())
    assert kept_by_other < kept


def test_batch_statistics_are_updated_once(tiny_cfg):
    tiny_cfg.MODEL.RESNETS.NORM = "BN"
    tiny_cfg.MODEL.BACKBONE.FREEZE_AT = 0
    state = {name: value.clone() for name, value in build_model(tiny_cfg).state_dict().items()}
    model, _, gradients, _ = step(tiny_cfg, (), state)
    other, _, of_other, _ = step(tiny_cfg, ("backbone",), state)
    counts = [value for name, value in other.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counts and all(count == 1 for count in counts)
    assert_equal(of_other, gradients)
    assert_equal(other.state_dict(), model.state_dict())


def test_evaluation_is_left_alone(tiny_cfg):
    model, *_ = step(tiny_cfg, ("backbone", "box_head"))
    with torch.no_grad():
        assert model.eval()([{"image": torch.zeros(3, 64, 64)}])[0].keys() == {"instances"}


def test_an_unknown_part_is_refused_before_any_work(tiny_cfg):
    tiny_cfg.MODEL.ACTIVATION_CHECKPOINTING = ("mask_head",)
    with pytest.raises(InputError, match="ACTIVATION_CHECKPOINTING has 'mask_head'; valid: backbone, box_head"):
        check_speed(tiny_cfg)
