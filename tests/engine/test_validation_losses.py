"""Validation losses and sample predictions while training: what they are, and that training doesn't notice them."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.structures.masks import polygons_to_bitmask
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from PIL import Image
from pycocotools import mask as mask_util
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.ops import StochasticDepth

from balanced_lvis.data.config_datasets import prepare_rendered
from balanced_lvis.data.dataset_records import choose_records, load_records
from balanced_lvis.data.images.image_files import read_image
from balanced_lvis.drawing.lettering import lettering
from balanced_lvis.drawing.objects import class_color, draw_objects
from balanced_lvis.engine import sample_images, validation_losses
from balanced_lvis.engine.sample_images import SampleImages
from balanced_lvis.engine.trainer import Trainer
from balanced_lvis.engine.validation_losses import ValidationLosses, computing_losses
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.random_state import current_states, seed_all, seed_of
from tests.data.turned import save_turned
from tests.engine.processes.test_ranks import on_ranks
from tests.engine.test_second_stage import EVALUATED, tensors, train

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
        **EVALUATED, "MODEL__ROI_BOX_HEAD__ACTIVATION__NAME": method, "TEST__EVAL_PERIOD": 2, "SEED": 3,
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
    return train("rfs", rendered, tmp_path_factory.mktemp("watched"), TEST__EVAL_PERIOD=2, **EVALUATED, **BOTH)


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
    """Its only loss is the mean image id of a batch; some batches fail."""

    def __init__(self, failing=()):
        self.bare_model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout(0.5))
        self.failing = failing
        self.batches = 0

    def on_device(self, batch):
        return batch

    def validation_losses(self, batch):
        self.batches += 1
        if self.batches - 1 in self.failing:
            raise FloatingPointError("no proposals")
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


@pytest.mark.parametrize(("failing", "names"), [({1}, {"loss_id", "total_loss"}), ({0, 1, 2}, {"total_loss"})])
def test_a_batch_with_proposals_that_are_not_finite_makes_all_losses_nan(failing, names, tiny_cfg, package_log):
    tiny_cfg.TEST.LOSS_IMAGES, tiny_cfg.SOLVER.IMS_PER_BATCH = 6, 2
    step = Step(failing)
    found = ValidationLosses(tiny_cfg, step)()
    assert step.batches == 3
    assert found.keys() == {f"validation/{name}" for name in names}
    assert all(math.isnan(value) for value in found.values())
    assert f"on rendered_val are NaN: {len(failing)} batches failed: no proposals" in package_log.text


def losses_with_a_failure_on_rank_1(cfg):
    prepare_rendered(cfg)
    found = ValidationLosses(cfg, Step({0} if comm.get_rank() == 1 else ()))()
    assert len(found) == (2 if comm.is_main_process() else 0)
    assert all(math.isnan(value) for value in found.values())


def test_a_batch_that_fails_on_another_rank_makes_all_losses_nan(tiny_cfg, tmp_path):
    tiny_cfg.TEST.LOSS_IMAGES = 4
    on_ranks(2, tmp_path, losses_with_a_failure_on_rank_1, tiny_cfg)


class DropPath(torch.nn.Module):
    """As timm's."""

    drop_prob = 0.5


def test_modes_are_restored_after_an_error():
    model = torch.nn.Sequential(
        torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2), DropPath(), StochasticDepth(0.5, "row"), torch.nn.Dropout()
    )  # fmt: skip
    model.eval()
    model[1].train()
    model[2].train()
    with pytest.raises(RuntimeError), computing_losses(model):
        assert [part.training for part in model.modules()] == [True, False, True, False, False, False]
        assert not torch.is_grad_enabled()
        raise RuntimeError
    assert [part.training for part in model.modules()] == [False, False, True, True, False, False]


def test_no_training_images_are_drawn(tiny_cfg, monkeypatch):
    tiny_cfg.TEST.LOSS_IMAGES, tiny_cfg.VIS_PERIOD = 2, 1
    trainer = Trainer(tiny_cfg)
    put = []
    monkeypatch.setattr(EventStorage, "put_image", lambda self, name, pixels: put.append(name))
    ValidationLosses(tiny_cfg, trainer.step)()
    assert put == []
    assert trainer.model.vis_period == trainer.model.roi_heads.mask_head.vis_period == 1


def test_a_second_stage_has_the_loss_of_its_classifier(rendered, watched, tmp_path):
    options = {**EVALUATED, "MODEL__WEIGHTS": watched / "model_final.pth", "TEST__LOSS_IMAGES": 3}
    output = train("balms", rendered, tmp_path, **options)
    line = next(line for line in lines_of(output) if "bbox/AP" in line)
    assert {name for name in line if name.startswith("validation")} == {
        "validation/loss_cls", "validation/total_loss"
    }  # fmt: skip


DETECTED = [*([4 * i, 10, 4 * i + 3, 60] for i in range(10)), [36, 10, 39, 59]]  # the last but one has the best score


class Detector(torch.nn.Module):
    """
    A model that is no ``GeneralizedRCNN``. It detects the boxes of :data:`DETECTED` in each image, the last of which
    NMS removes, with or without masks.
    """

    def __init__(self, with_masks):
        super().__init__()
        self.with_masks = with_masks
        self.modes = []

    def forward(self, records):
        self.modes.append((self.training, torch.is_grad_enabled()))
        return [{"instances": self._instances(record["height"], record["width"])} for record in records]

    def _instances(self, height, width):
        found = Instances((height, width))
        found.pred_boxes = Boxes(torch.tensor(DETECTED, dtype=torch.float32))
        found.scores = torch.linspace(0.1, 0.7, len(DETECTED))
        found.scores[-1] = 0.6
        found.pred_classes = torch.arange(len(DETECTED))
        if self.with_masks:
            found.pred_masks = torch.from_numpy(np.stack([_filled(box, height, width) for box in DETECTED]))
        return found


def _filled(box, height, width):
    mask = np.zeros((height, width), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def rles(masks):
    return [mask_util.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]


def drawn_truth(record, names, families):
    """The left half of an image."""
    pixels = read_image(record["file_name"], "RGB")
    objects = [one for one in record["annotations"] if not one.get("iscrowd")]
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in objects)]
    masks = rles([polygons_to_bitmask(one["segmentation"], *pixels.shape[:2]) for one in objects])
    classes = [one["category_id"] for one in objects]
    return draw_objects(
        pixels, np.array(boxes, np.float32).reshape(-1, 4), masks, [names[c] for c in classes],
        [class_color(c) for c in classes], families,
    )  # fmt: skip


def drawn_by(samples):
    """(3, H, W) of each image."""
    with EventStorage() as storage:
        samples()
        return {name: pixels for name, pixels, _ in storage._vis_data}


@pytest.mark.parametrize("case", ["masks", "no masks", "crowds"])
def test_samples_show_ground_truth_left_and_predictions_right(case, tiny_cfg, monkeypatch):
    records = copy.deepcopy(choose_records("rendered_val", 2))
    class_names = MetadataCatalog.get("rendered_val").thing_classes
    if case == "crowds":
        for one in records[0]["annotations"]:
            one["iscrowd"] = 1
    monkeypatch.setattr(sample_images, "choose_records", lambda name, count: records[:count])
    tiny_cfg.TEST.SAMPLE_IMAGES = 2
    model = Detector(with_masks=case != "no masks")
    samples = SampleImages(tiny_cfg, model)
    found = drawn_by(samples)
    assert model.modes == [(False, False)] * 2 and model.training
    names, families = lettering(dict(enumerate(class_names)))
    assert found.keys() == {f"samples/{record['image_id']}" for record in records}
    for record in records:
        pixels = found[f"samples/{record['image_id']}"].transpose(1, 2, 0)
        left = drawn_truth(record, names, families)
        count = sum(not one.get("iscrowd") for one in record["annotations"])
        assert 0 < count < 10 or (case == "crowds" and record is records[0])
        classes = list(range(9, 9 - count, -1))
        boxes = np.array([DETECTED[c] for c in classes], np.float32).reshape(-1, 4)
        scores = np.linspace(0.1, 0.7, len(DETECTED))
        image = read_image(record["file_name"], "RGB")
        right = draw_objects(
            image, boxes,
            rles([_filled(DETECTED[c], *image.shape[:2]) for c in classes]) if model.with_masks else None,
            [f"{names[c]} {scores[c]:.2f}" for c in classes], [class_color(c) for c in classes], families,
        )  # fmt: skip
        assert np.array_equal(pixels[:, : left.shape[1]], left)
        assert np.array_equal(pixels[:, -right.shape[1] :], right)
        assert (pixels[:, left.shape[1] : -right.shape[1]] == 255).all()


def test_samples_of_an_image_that_was_annotated_without_its_rotation_are_not_rotated(tiny_cfg, monkeypatch, tmp_path):
    record = copy.deepcopy(choose_records("rendered_val", 1)[0])
    tiny_cfg.TEST.SAMPLE_IMAGES = 1
    drawn = []
    for orientation in (1, 6):  # upright; to be rotated clockwise
        path = tmp_path / f"{orientation}.png"
        save_turned(path, Image.open(record["file_name"]).crop((0, 0, 96, 60)), orientation)
        one = {**record, "file_name": str(path), "height": 60}
        monkeypatch.setattr(sample_images, "choose_records", lambda name, count, one=one: [one])
        drawn += drawn_by(SampleImages(tiny_cfg, Detector(with_masks=True))).values()
    assert np.array_equal(*drawn)


def test_samples_of_a_dataset_without_class_names_have_numbers(tiny_cfg, own_catalogs, package_log):
    records = choose_records("rendered_val", 1)
    DatasetCatalog.register("unnamed", lambda: records)
    tiny_cfg.DATASETS.TEST, tiny_cfg.TEST.SAMPLE_IMAGES = ("unnamed",), 1
    samples = SampleImages(tiny_cfg, Detector(with_masks=True))
    (first,), (second,) = (drawn_by(samples).values() for _ in range(2))
    names, families = lettering({i: f"class {i}" for i in range(tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES)})
    left = drawn_truth(records[0], names, families)
    assert np.array_equal(first.transpose(1, 2, 0)[:, : left.shape[1]], left) and np.array_equal(first, second)
    assert package_log.text.count("Dataset unnamed has no class names") == 1


def test_samples_of_a_detector_of_detectron2_have_its_predictions_at_the_right(tiny_cfg):
    tiny_cfg.TEST.SAMPLE_IMAGES = 3
    drawn = drawn_by(SampleImages(tiny_cfg, Trainer.build_model(tiny_cfg)))
    records = {f"samples/{record['image_id']}": record for record in choose_records("rendered_val", 3)}
    assert drawn.keys() == records.keys()
    names, families = lettering(dict(enumerate(MetadataCatalog.get("rendered_val").thing_classes)))
    for name, pixels in drawn.items():
        left = drawn_truth(records[name], names, families).transpose(2, 0, 1)
        width = left.shape[2]
        assert pixels.dtype == np.uint8 and np.array_equal(pixels[:, :, :width], left)
        assert not np.array_equal(pixels[:, :, -width:], left)


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
        train("rfs", rendered, tmp_path, **{**EVALUATED, **overrides})
    assert not (tmp_path / "metrics.json").exists()
