"""Validation losses and sample predictions while training: what they are, and that training doesn't notice them."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from balanced_lvis.data.config_datasets import prepare_rendered
from balanced_lvis.data.dataset_records import choose_records, load_records
from balanced_lvis.engine import validation_losses
from balanced_lvis.engine.sample_images import SampleImages
from balanced_lvis.engine.trainer import Trainer
from balanced_lvis.engine.validation_losses import ValidationLosses, computing_losses
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.random_state import current_states, seed_all, seed_of
from tests.engine.processes.test_ranks import on_ranks
from tests.engine.test_second_stage import tensors, train

BOTH = {"TEST__LOSS_IMAGES": 5, "TEST__SAMPLE_IMAGES": 2}
LOSSES = {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def without_extras(lines):
    """Lines without validation losses, and without times."""
    return [
        {key: value for key, value in line.items() if "validation" not in key and "time" not in key and key != "eta"}
        for line in lines
    ]


@pytest.mark.parametrize("method", ["equalization_v2", "seesaw", "federated"])
def test_training_is_bit_identical_with_and_without(method, rendered, tmp_path):
    """With state that training updates, batch statistics, and random classes."""
    settings = {
        "MODEL__ROI_BOX_HEAD__ACTIVATION__NAME": method, "TEST__EVAL_PERIOD": 2, "SEED": 3,
        "MODEL__RESNETS__NORM": "BN", "MODEL__BACKBONE__FREEZE_AT": 0,
    }  # fmt: skip
    plain = train("rfs", rendered, tmp_path / "plain", **settings)
    watched = train("rfs", rendered, tmp_path / "watched", **settings, **BOTH)
    expected, found = tensors(plain), tensors(watched)
    assert any("running_mean" in key for key in found)
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []
    saved = [torch.load(folder / "model_final.pth", weights_only=True) for folder in (plain, watched)]
    states = [one["trainer"]["_trainer"]["optimizer"]["state"] for one in saved]
    assert states[0] and [(i, key) for i, state in states[0].items() for key in state
                          if not torch.equal(state[key], states[1][i][key])] == []  # fmt: skip
    assert without_extras(lines_of(watched)) == without_extras(lines_of(plain))


@pytest.fixture(scope="module")
def watched(rendered, tmp_path_factory):
    """A run of four iterations with an evaluation after two."""
    return train("rfs", rendered, tmp_path_factory.mktemp("watched"), TEST__EVAL_PERIOD=2, **BOTH)


def test_losses_and_samples_of_every_evaluation_are_in_tensorboard(watched):
    events = EventAccumulator(str(watched), size_guidance={"images": 0}).Reload()
    names = {f"validation/{name}" for name in {*LOSSES, "total_loss"}}
    assert names <= set(events.Tags()["scalars"])
    for name in names:
        assert len(events.Scalars(name)) == 2
    images = [f"samples/{record['image_id']}" for record in choose_records("rendered_val", 2)]
    assert sorted(events.Tags()["images"]) == sorted(images)
    assert all(len(events.Images(name)) == 2 for name in images)


def test_losses_are_in_the_line_of_the_evaluation(watched):
    lines = [line for line in lines_of(watched) if "bbox/AP" in line]
    assert len(lines) == 2
    for line in lines:
        values = {name: line[f"validation/{name}"] for name in LOSSES}
        assert all(value > 0 for value in values.values())
        assert line["validation/total_loss"] == pytest.approx(sum(values.values()))
    assert lines[0]["validation/total_loss"] != lines[1]["validation/total_loss"]


def test_they_are_the_losses_of_the_model_in_training_mode(tiny_cfg):
    tiny_cfg.TEST.LOSS_IMAGES = tiny_cfg.SOLVER.IMS_PER_BATCH = 4
    trainer = Trainer(tiny_cfg)
    seed_all(8)
    before = current_states()
    modes = [module.training for module in trainer.model.modules()]
    losses = ValidationLosses(tiny_cfg, trainer.step)
    found = losses()
    assert str(before) == str(current_states())
    assert modes == [module.training for module in trainer.model.modules()] and all(modes)
    assert losses() == found, "the same images and random numbers"

    for module in trainer.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    loader = validation_losses.build_loss_loader(tiny_cfg, "rendered_val", choose_records("rendered_val", 4))
    with EventStorage(), torch.no_grad():
        torch.manual_seed(seed_of(0, 0))
        (batch,) = loader  # which draws the seed of its workers
        expected = trainer.model(batch)
    for name, value in expected.items():
        assert found[f"validation/{name}"] == float(value)


def test_images_are_not_augmented_and_are_as_large_as_in_a_test(tiny_cfg):
    tiny_cfg.INPUT.MIN_SIZE_TEST, tiny_cfg.INPUT.RANDOM_FLIP = 48, "horizontal"
    records = choose_records("rendered_val", 3)
    loaded = [one for batch in validation_losses.build_loss_loader(tiny_cfg, "rendered_val", records) for one in batch]
    test = {one["image_id"]: one["image"] for (one,) in Trainer.build_test_loader(tiny_cfg, "rendered_val")}
    assert [one["image_id"] for one in loaded] == [record["image_id"] for record in records]
    for one in loaded:
        assert torch.equal(one["image"], test[one["image_id"]]) and one["image"].shape[1] == 48
        assert one["instances"].has("gt_masks")


def test_the_choice_of_images_is_random_grows_and_has_annotations(rendered):
    every = [record["image_id"] for record in load_records("rendered_val")]
    chosen = [[record["image_id"] for record in choose_records("rendered_val", n)] for n in (3, 6, 100)]
    assert set(chosen[0]) < set(chosen[1]) and chosen[2] == every
    assert chosen[1] == sorted(chosen[1], key=every.index) and chosen[1] != every[:6]
    assert [record["image_id"] for record in choose_records("rendered_val", 6, seed=1)] != chosen[1]


class Step:
    """Its only loss is the mean image id of a batch."""

    def __init__(self, error=None):
        self.bare_model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout(0.5))
        self.error = error

    def on_device(self, batch):
        return batch

    def validation_losses(self, batch):
        if self.error:
            raise self.error
        assert self.bare_model.training and not any(part.training for part in self.bare_model)
        return {"loss_id": torch.tensor(float(np.mean([record["image_id"] for record in batch])))}


def mean_image_id(cfg):
    prepare_rendered(cfg)
    found = ValidationLosses(cfg, Step())()
    if not comm.is_main_process():
        assert found == {}
        return
    wanted = [record["image_id"] for record in choose_records("rendered_val", cfg.TEST.LOSS_IMAGES)]
    assert found == {"validation/loss_id": pytest.approx(np.mean(wanted)), "validation/total_loss": pytest.approx(
        np.mean(wanted))}  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 4])
def test_any_number_of_processes_gives_the_mean_over_all_images(size, tiny_cfg, tmp_path):
    """7 images in batches of 4, 2 or 1 per process; the last batch is smaller."""
    tiny_cfg.TEST.LOSS_IMAGES, tiny_cfg.SOLVER.IMS_PER_BATCH = 7, 4
    on_ranks(size, tmp_path, mean_image_id, tiny_cfg)


def test_proposals_that_are_not_finite_give_nan_and_dont_end_training(tiny_cfg):
    tiny_cfg.TEST.LOSS_IMAGES = 2
    found = ValidationLosses(tiny_cfg, Step(FloatingPointError("no proposals")))()
    assert math.isnan(found["validation/total_loss"])


def test_modes_are_restored_after_an_error():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
    model.eval()
    model[1].train()
    with pytest.raises(RuntimeError), computing_losses(model):
        assert model.training and not model[0].training and not torch.is_grad_enabled()
        raise RuntimeError
    assert [part.training for part in model.modules()] == [False, False, True]


def test_a_second_stage_has_the_loss_of_its_classifier(rendered, watched, tmp_path):
    output = train("balms", rendered, tmp_path, MODEL__WEIGHTS=watched / "model_final.pth", TEST__LOSS_IMAGES=3)
    line = next(line for line in lines_of(output) if "bbox/AP" in line)
    assert {name for name in line if name.startswith("validation")} == {
        "validation/loss_cls", "validation/total_loss"
    }  # fmt: skip


def test_samples_show_ground_truth_left_and_predictions_right(tiny_cfg):
    tiny_cfg.TEST.SAMPLE_IMAGES = 3
    model = Trainer.build_model(tiny_cfg)
    samples = SampleImages(tiny_cfg, model)
    with EventStorage() as storage:
        samples()
        drawn = {name: pixels for name, pixels, _ in storage._vis_data}
    records = {f"samples/{record['image_id']}": record for record in choose_records("rendered_val", 3)}
    assert drawn.keys() == records.keys()
    for pixels in drawn.values():
        channels, height, width = pixels.shape
        assert channels == 3 and pixels.dtype == np.uint8 and height % 96 == 0
        left, right = pixels[:, :, :height], pixels[:, :, -height:]
        assert width == 2 * height + max(2, height // 100)
        assert not np.array_equal(left, right)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"TEST__LOSS_IMAGES": -1}, "TEST.LOSS_IMAGES is -1"),
        ({"TEST__SAMPLE_IMAGES": 101}, "TEST.SAMPLE_IMAGES is 101; it must be at most 100"),
        ({"TEST__LOSS_IMAGES": 4, "MODEL__LOAD_PROPOSALS": True}, "MODEL.LOAD_PROPOSALS"),
        (
            {"TEST__LOSS_IMAGES": 4, "DATASETS__TEST": ("rendered_test_dev",)},
            "TEST.LOSS_IMAGES is 4, but rendered_test_dev has no image with annotations",
        ),
    ],
)
def test_what_is_not_possible_is_refused_at_the_start(overrides, named, rendered, tmp_path):
    with pytest.raises(InputError, match=named):
        train("rfs", rendered, tmp_path, **overrides)
    assert not (tmp_path / "metrics.json").exists()
