"""Copy-paste: what is pasted, what is hidden, what is drawn, and that it depends on a position only."""

import itertools
import shutil

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from balanced_lvis.commands.train import argument_parser
from balanced_lvis.config import load_config
from balanced_lvis.data.batches import MappedImages, Place
from balanced_lvis.data.config_datasets import resolve_num_classes
from balanced_lvis.data.copy_paste import CopyPaste, build_copy_paste, check_copy_paste
from balanced_lvis.data.dataset_records import load_records
from balanced_lvis.data.images.decoding import ImageError
from balanced_lvis.data.loader import build_train_loader
from balanced_lvis.data.samplers.sampler_registry import DETECTRON2_ONLY
from balanced_lvis.data.training_prior import class_prior_from_config
from balanced_lvis.engine.run import check, read_config, run
from balanced_lvis.utils.errors import InputError
from tests import reference
from tests.common import CONFIGS, rendered_opts
from tests.data.custom import made

# Classes of each image, one entry per object: n_c = 4, 2, 1 images.
IMAGES = [[0, 0, 1], [0], [], [0, 2], [1, 0]]
COUNTS = np.array([4, 2, 1])


def dataset(images=IMAGES):
    return [{"image_id": i, "annotations": [{"category_id": c} for c in classes]} for i, classes in enumerate(images)]


def copy_paste(**options):
    return CopyPaste(dataset(), 3, **options)


# ------------------------------------------------------------------ composition


def random_record(rng, height, width, count, channels=3):
    """A record with rectangles and noise as masks, some empty, whose boxes are not exactly those of the masks."""
    masks = np.zeros((count, height, width), bool)
    for mask in masks:
        y0, x0 = rng.integers(height), rng.integers(width)
        mask[y0 : y0 + rng.integers(1, height), x0 : x0 + rng.integers(1, width)] = True
        if rng.random() < 0.3:
            mask &= rng.random(mask.shape) < 0.3
    boxes = BitMasks(torch.from_numpy(masks)).get_bounding_boxes().tensor + torch.from_numpy(rng.random((count, 4)))
    instances = Instances(
        (height, width), gt_boxes=Boxes(boxes.float()), gt_classes=torch.from_numpy(rng.integers(3, size=count)),
        gt_masks=BitMasks(torch.from_numpy(masks)),
    )  # fmt: skip
    image = torch.from_numpy(rng.integers(256, size=(channels, height, width), dtype=np.uint8))
    return {"file_name": "a.jpg", "image": image, "instances": instances}


def plain(record):
    """Pixels and objects as plain lists, for the reference."""
    instances = record["instances"]
    masks = instances.gt_masks.tensor.int().tolist()
    objects = list(zip(instances.gt_classes.tolist(), instances.gt_boxes.tensor.tolist(), masks))
    return [[tuple(pixel) for pixel in row] for row in record["image"].permute(1, 2, 0).tolist()], objects


@pytest.mark.parametrize("seed", range(60))
def test_the_composition_equals_naive_loops_over_pixels(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 16, size=4)
    record = random_record(rng, *sizes[:2], rng.integers(0, 5))
    source = random_record(rng, *sizes[2:], rng.integers(1, 5))
    min_area, shift = int(rng.integers(0, 20)), int(rng.integers(0, 6))
    chosen = np.flatnonzero(rng.random(len(source["instances"])) < 0.6)
    maker = copy_paste(min_area=min_area, max_box_shift=shift)
    monkeypatch.setattr(maker, "draw_objects", lambda classes: chosen)
    image, objects = plain(record)
    source_image, candidates = plain(source)
    pasted = [candidates[i] for i in chosen]
    expected = reference.copy_paste(image, objects, source_image, pasted, min_area, shift)
    before = plain(record), plain(source)
    found = plain(maker(record, source))
    assert found[0] == expected[0]
    assert found[1] == [(label, pytest.approx(box), mask) for label, box, mask in expected[1]]
    assert before == (plain(record), plain(source)), "neither record is modified"


def square(record_size, *sides, label=0):
    """An object with a box that is larger than its mask, so that it shows whether the box was recomputed."""
    x0, y0, x1, y1 = sides
    mask = torch.zeros(1, *record_size, dtype=torch.bool)
    mask[0, y0:y1, x0:x1] = True
    return Instances(
        record_size, gt_boxes=Boxes(torch.tensor([[x0 - 0.5, y0, x1, y1]])), gt_classes=torch.tensor([label]),
        gt_masks=BitMasks(mask),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sides", "options", "kept"),
    [
        ((0, 0, 9, 9), {}, False),  # under the pasted object
        ((10, 10, 20, 20), {"min_area": 50, "max_box_shift": 4}, False),  # 50 of 100 pixels are left, x0 moves by 5
        ((10, 10, 20, 20), {"min_area": 49, "max_box_shift": 4}, True),
        ((10, 10, 20, 20), {"min_area": 50, "max_box_shift": 5}, True),
        ((30, 30, 32, 32), {"min_area": 500, "max_box_shift": 0}, True),  # small but not hidden
    ],
)
def test_an_object_goes_if_little_of_it_is_left_and_its_box_has_moved(sides, options, kept, monkeypatch):
    size = (40, 40)
    record = {"image": torch.zeros(3, *size), "instances": square(size, *sides, label=1)}
    source = {"image": torch.ones(3, *size), "instances": square(size, 0, 0, 15, 20)}
    maker = copy_paste(**options)
    monkeypatch.setattr(maker, "draw_objects", lambda classes: np.array([0]))
    assert maker(record, source)["instances"].gt_classes.tolist() == ([1, 0] if kept else [0])


def test_an_object_without_a_pixel_stays_but_is_not_pasted(monkeypatch):
    """A polygon that is tiny after resizing may have no pixel, and still has a box to learn."""
    size = (20, 20)
    tiny = square(size, 12, 12, 12, 12, label=2)
    objects = Instances.cat([tiny, square(size, 0, 0, 5, 5, label=1)])
    record = {"image": torch.zeros(3, *size), "instances": objects}
    maker = copy_paste()
    monkeypatch.setattr(maker, "draw_objects", lambda classes: np.arange(len(classes)))
    source = {"image": torch.ones(3, *size), "instances": Instances.cat([square(size, 0, 0, 9, 9), tiny])}
    found = maker(record, source)["instances"]
    assert found.gt_classes.tolist() == [2, 0]
    assert found.gt_boxes.tensor[0].tolist() == tiny.gt_boxes.tensor[0].tolist()
    assert maker(record, {**source, "instances": tiny}) is record


def test_boxes_of_untouched_objects_stay_as_annotated_and_others_are_those_of_the_masks(monkeypatch):
    size = (30, 30)
    objects = Instances.cat([square(size, 2, 2, 12, 12), square(size, 20, 20, 25, 25, label=1)])
    record = {"image": torch.zeros(3, *size), "instances": objects}
    source = {"image": torch.ones(3, *size), "instances": square(size, 0, 0, 8, 30, label=2)}
    maker = copy_paste(min_area=1)
    monkeypatch.setattr(maker, "draw_objects", lambda classes: np.array([0]))
    found = maker(record, source)
    assert found["instances"].gt_classes.tolist() == [0, 1, 2]
    assert found["instances"].gt_boxes.tensor.tolist() == [[8, 2, 12, 12], [19.5, 20, 25, 25], [-0.5, 0, 8, 30]]
    assert found["image"].sum(0).count_nonzero() == 8 * 30
    assert record["image"].count_nonzero() == 0


def test_lists_of_the_federated_annotation_are_left_out_where_something_is_pasted(monkeypatch):
    rng = np.random.default_rng(0)
    lists = {"neg_category_ids": [1], "not_exhaustive_category_ids": [2], "image_id": 7}
    record, source = {**random_record(rng, 9, 9, 2), **lists}, random_record(rng, 9, 9, 2)
    maker = copy_paste(min_area=0, max_box_shift=99)
    monkeypatch.setattr(maker, "draw_objects", lambda classes: np.array([0]))
    assert maker(record, source).keys() == record.keys() - {"neg_category_ids", "not_exhaustive_category_ids"}
    monkeypatch.setattr(maker, "draw_objects", lambda classes: np.array([], int))
    assert maker(record, source) is record


def test_polygons_become_the_bitmasks_of_detectron2s_mapper(rendered):
    """Masks of a composed image are those that ``INPUT.MASK_FORMAT bitmask`` has."""
    found = {}
    for mask_format in ("polygon", "bitmask"):
        cfg = config(rendered, INPUT__MASK_FORMAT=mask_format, INPUT__COPY_PASTE__MAX_BOX_SHIFT=1e6)
        loader = build_train_loader(cfg)
        loader.stream.sampler.seed = 3
        found[mask_format] = take(loader, 3)
    records = [list(itertools.chain(*batches)) for batches in found.values()]
    kinds = [{type(record["instances"].gt_masks) for record in one} for one in records]
    assert kinds == [{PolygonMasks, BitMasks}, {BitMasks}]
    for polygons, bitmasks in zip(*records):
        assert torch.equal(polygons["image"], bitmasks["image"])
        if isinstance(polygons["instances"].gt_masks, BitMasks):
            assert_equal(polygons, bitmasks)


@pytest.mark.parametrize("image_format", ["RGB", "BGR", "L", "YUV-BT.601"])
def test_all_image_formats_are_composed(rendered, image_format):
    cfg = config(rendered, INPUT__FORMAT=image_format, INPUT__CROP__ENABLED=True, INPUT__RANDOM_FLIP="horizontal")
    plain_cfg = cfg.clone()
    plain_cfg.INPUT.COPY_PASTE.ENABLED = False
    with_it, without = loaded(cfg, 2), loaded(plain_cfg, 2)
    assert [record["image"].dtype for record in with_it] == [record["image"].dtype for record in without]
    assert [record["image"].shape for record in with_it] == [record["image"].shape for record in without]
    assert any(not torch.equal(a["image"], b["image"]) for a, b in zip(with_it, without))


def test_pixels_outside_pasted_masks_are_those_without_copy_paste(rendered):
    cfg = config(rendered, INPUT__RANDOM_FLIP="horizontal")
    plain_cfg = cfg.clone()
    plain_cfg.INPUT.COPY_PASTE.ENABLED = False
    changed = 0
    for found, without in zip(loaded(cfg, 4), loaded(plain_cfg, 4)):
        if type(found["instances"].gt_masks) is PolygonMasks:
            assert_equal(found, without)
            continue
        differs = (found["image"] != without["image"]).any(0)
        assert not (differs & ~found["instances"].gt_masks.tensor.any(0)).any()
        changed += 1
    assert changed > 3


# ------------------------------------------------------------------ draws


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 3000.0])
def test_images_are_drawn_by_their_rarest_class(power):
    """A power of 3000 has weights that no float can represent."""
    maker = copy_paste(rarity_power=power)
    np.random.seed(0)
    found = np.bincount([maker.draw_image() for _ in range(20_000)], minlength=5) / 20_000
    weights = [
        max((float(COUNTS[c]) ** -power if power < 9 else COUNTS[c] == 1 for c in classes), default=0)
        for classes in IMAGES
    ]
    np.testing.assert_allclose(found, reference.drawn_first(weights), atol=0.012)
    assert maker.first_image() == (3 if power == 3000 else 0)


@pytest.mark.parametrize("power", [0.0, 0.5, 2.0])
def test_objects_are_drawn_without_replacement_by_their_classes(power):
    maker = copy_paste(rarity_power=power)
    classes = np.array([0, 1, 0, 2])
    np.random.seed(1)
    draws = [maker.draw_objects(classes) for _ in range(10_000)]
    sizes = np.bincount([len(draw) for draw in draws]) / len(draws)
    np.testing.assert_allclose(sizes, [0.2] * 5, atol=0.02)
    weights = [float(COUNTS[c]) ** -power for c in classes]
    for size, expected in ((1, reference.drawn_first(weights)), (2, reference.drawn_among_two(weights))):
        of_size = [draw for draw in draws if len(draw) == size]
        found = np.bincount(np.concatenate(of_size), minlength=4) / len(of_size)
        np.testing.assert_allclose(found, expected, atol=0.04)
    assert all((np.diff(draw) > 0).all() for draw in draws)


def test_at_most_so_many_objects_are_drawn():
    maker = copy_paste(max_objects=2)
    np.random.seed(0)
    assert {len(maker.draw_objects(np.zeros(50, int))) for _ in range(200)} == {0, 1, 2}
    assert len(maker.draw_objects(np.zeros(0, int))) == 0


def test_a_fraction_of_the_images_is_combined():
    maker = copy_paste(probability=0.3)
    np.random.seed(0)
    assert np.mean([maker.is_used() for _ in range(20_000)]) == pytest.approx(0.3, abs=0.01)
    assert not any(copy_paste(probability=0).is_used() for _ in range(100))
    assert all(copy_paste(probability=1).is_used() for _ in range(100))


def test_crowd_regions_are_not_pasted_and_do_not_count():
    images = dataset([[0], [0, 1]])
    images[1]["annotations"][0]["iscrowd"] = images[0]["annotations"][0]["iscrowd"] = 1
    maker = CopyPaste(images, 2)
    assert {maker.draw_image() for _ in range(50)} == {1}


# ------------------------------------------------------------------ loader


def config(rendered, **options):
    words = {"DATALOADER__NUM_WORKERS": 0, "INPUT__COPY_PASTE__MIN_AREA": 20, **options}
    cfg = load_config(CONFIGS / "rendered" / "copy_paste.yaml", rendered_opts(rendered, "unused"))
    for key, value in words.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def take(iterable, count):
    return list(itertools.islice(iterable, count))


def loaded(cfg, batches):
    loader = build_train_loader(cfg)
    loader.stream.sampler.seed = 3
    return list(itertools.chain(*take(loader, batches)))


def assert_equal(one, other):
    assert one["image_id"] == other["image_id"]
    assert torch.equal(one["image"], other["image"])
    a, b = one["instances"], other["instances"]
    assert torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor)
    assert torch.equal(a.gt_classes, b.gt_classes)
    assert type(a.gt_masks) is type(b.gt_masks)
    if isinstance(a.gt_masks, BitMasks):
        assert torch.equal(a.gt_masks.tensor, b.gt_masks.tensor)
    else:
        for first, second in zip(a.gt_masks.polygons, b.gt_masks.polygons):
            assert all(np.array_equal(p, q) for p, q in zip(first, second))


@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler", "ClassAwareTrainingSampler"])
@pytest.mark.parametrize("grouping", [False, True])
def test_what_is_pasted_depends_on_the_position_and_not_on_workers_or_interruptions(rendered, sampler, grouping):
    found = []
    for workers in (0, 2):
        cfg = config(
            rendered, DATALOADER__NUM_WORKERS=workers, DATALOADER__SAMPLER_TRAIN=sampler,
            DATALOADER__ASPECT_RATIO_GROUPING=grouping, INPUT__RANDOM_FLIP="horizontal",
        )  # fmt: skip
        loader = build_train_loader(cfg)
        loader.stream.sampler.seed = 3
        found.append(list(itertools.chain(*take(loader, 6))))
        resumed = build_train_loader(cfg)
        resumed.load_state_dict(loader.state_dict(2))
        rest = list(itertools.chain(*take(resumed, 4)))
        for a, b in zip(rest, found[-1][-len(rest) :]):
            assert_equal(a, b)
    for a, b in zip(*found):
        assert_equal(a, b)
    assert sum(isinstance(record["instances"].gt_masks, BitMasks) for record in found[0]) > 3


def test_with_probability_0_everything_is_as_without_copy_paste(rendered):
    cfg = config(rendered, INPUT__COPY_PASTE__PROBABILITY=0.0)
    plain_cfg = cfg.clone()
    plain_cfg.INPUT.COPY_PASTE.ENABLED = False
    for a, b in zip(loaded(cfg, 3), loaded(plain_cfg, 3)):
        assert_equal(a, b)
        assert a.keys() == b.keys()


def test_rare_classes_are_pasted_first(rendered):
    records = load_records("rendered_train")
    counts = np.bincount([c for r in records for c in {a["category_id"] for a in r["annotations"]}], minlength=12)
    means = []
    for power in (0.0, 3.0):
        cfg = config(rendered, INPUT__COPY_PASTE__RARITY_POWER=power, DATALOADER__SAMPLER_TRAIN="TrainingSampler")
        classes = torch.cat([record["instances"].gt_classes for record in loaded(cfg, 12)])
        means.append(np.log(counts[classes]).mean())
    assert means[1] < means[0] - 0.2


def test_a_second_image_that_is_broken_is_counted_and_replaced():
    records = [{"file_name": f"{i}.jpg", "number": i} for i in range(6)]

    def mapped(record):
        if record["number"] in (1, 2):
            raise ImageError(f"Image {record['file_name']} can't be read.")
        return dict(record)

    class Drawn:
        """Draws images 1, 2, 5."""

        def __init__(self):
            self.images = iter((1, 2, 5))

        def is_used(self):
            return True

        def draw_image(self):
            return next(self.images)

        def __call__(self, record, source):
            return {**record, "source": source["number"]}

    found = MappedImages(records, mapped, 2, Drawn())[Place(0, 0, 0)]
    assert (found["number"], found["source"], set(found["broken_images"])) == (0, 5, {"1.jpg", "2.jpg"})
    found = MappedImages(records, mapped, 1, Drawn())[Place(0, 0, 0)]
    assert (found["number"], set(found["broken_images"])) == (0, {"1.jpg", "2.jpg"}), "more than the limit: an error"
    assert "source" not in found


@pytest.mark.parametrize("rles", [False, True])
def test_custom_datasets_are_composed_with_rle_masks_and_images_of_any_size(tmp_path, rles):
    made.write(tmp_path, "train", made.content(rles))
    cfg = made.config(tmp_path, test="", SOLVER__IMS_PER_BATCH=2, DATALOADER__NUM_WORKERS=0)
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
    cfg.INPUT.COPY_PASTE.ENABLED = True
    cfg.INPUT.MIN_SIZE_TRAIN = (20, 30, 60)
    cfg.INPUT.COPY_PASTE.MIN_AREA = 0
    resolve_num_classes(cfg)
    found = loaded(cfg, 12)
    # The images have two objects and one; crowd regions are never pasted.
    assert {len(record["instances"]) for record in found} >= {1, 2, 3}
    dogs = [record["instances"].gt_classes.tolist().count(2) for record in found]
    assert max(dogs) <= 2
    for record in found:
        instances = record["instances"]
        assert instances.image_size == tuple(record["image"].shape[1:])
        if isinstance(instances.gt_masks, BitMasks):
            assert instances.gt_masks.tensor.shape[1:] == record["image"].shape[1:]


# ------------------------------------------------------------------ config


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("INPUT.COPY_PASTE.PROBABILITY", 1.5, "INPUT.COPY_PASTE.PROBABILITY is 1.5; it must be from 0 to 1"),
        ("INPUT.COPY_PASTE.MAX_OBJECTS", 0, "MAX_OBJECTS is 0; it must be 1 or more"),
        ("INPUT.COPY_PASTE.RARITY_POWER", -1.0, "RARITY_POWER is -1.0; it must be 0 or more"),
        ("INPUT.COPY_PASTE.RARITY_POWER", float("nan"), "RARITY_POWER is nan"),
        ("INPUT.COPY_PASTE.MIN_AREA", -1, "MIN_AREA is -1"),
        ("INPUT.COPY_PASTE.MAX_BOX_SHIFT", -1.0, "MAX_BOX_SHIFT is -1.0"),
        ("MODEL.MASK_ON", False, "not supported with MODEL.MASK_ON False"),
        ("MODEL.KEYPOINT_ON", True, "not supported with MODEL.KEYPOINT_ON True"),
        ("MODEL.LOAD_PROPOSALS", True, "not supported with MODEL.LOAD_PROPOSALS True"),
        ("MODEL.CLASS_PRIOR.SAMPLED", True, "CLASS_PRIOR.SAMPLED is True, but the number of objects"),
        *(
            ("DATALOADER.SAMPLER_TRAIN", name, f"not supported with DATALOADER.SAMPLER_TRAIN '{name}'")
            for name in DETECTRON2_ONLY
        ),
    ],
)
def test_what_copy_paste_can_not_do_is_an_error_before_work(key, value, message):
    cfg = load_config(CONFIGS / "rendered" / "copy_paste.yaml")
    check_copy_paste(cfg)
    node, name = key.rsplit(".", 1)
    target = cfg
    for part in node.split("."):
        target = target[part]
    target[name] = value
    with pytest.raises(InputError, match=message):
        check_copy_paste(cfg)
    cfg.INPUT.COPY_PASTE.ENABLED = False
    check_copy_paste(cfg)


def test_sampled_counts_are_unknown_with_pasted_objects(rendered, tmp_path):
    cfg = config(rendered)
    prior = class_prior_from_config(cfg)
    prior.save(tmp_path / "prior.json")
    cfg.MODEL.CLASS_PRIOR.SAMPLED = True
    for path in ("", str(tmp_path / "prior.json")):
        cfg.MODEL.CLASS_PRIOR.FILE = path
        with pytest.raises(InputError, match=r"the number of objects that INPUT.COPY_PASTE pastes is not known"):
            class_prior_from_config(cfg)


def test_annotations_without_masks_or_objects_are_named(rendered):
    cfg = config(rendered)
    images = load_records("rendered_train")
    assert build_copy_paste(cfg, images).max_objects == 100
    records = [images[i] for i in range(4)]
    for annotation in records[0]["annotations"]:
        del annotation["segmentation"]
    with pytest.raises(InputError, match=r"annotations of .* have no 'segmentation'"):
        build_copy_paste(cfg, records)
    with pytest.raises(InputError, match="no training image has objects to paste"):
        build_copy_paste(cfg, [{**record, "annotations": []} for record in records])


# ------------------------------------------------------------------ training


def train(rendered, folder, *more, resume=False):
    """The weights of a run of four iterations with a checkpoint after two."""
    opts = [*rendered_opts(rendered, folder), "SOLVER.CHECKPOINT_PERIOD", "2", "DATASETS.TEST", "()", *more]
    words = ["--config-file", str(CONFIGS / "rendered" / "copy_paste.yaml"), *(["--resume"] if resume else [])]
    args = argument_parser().parse_args([*words, *opts])
    cfg = read_config(args)
    check(cfg, args)
    run(cfg, args)
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def test_a_resumed_training_run_is_bit_identical(rendered, tmp_path):
    whole = train(rendered, tmp_path / "whole", "DATALOADER.NUM_WORKERS", "0")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    for name in ("model_final.pth", "model_0000003.pth"):
        (tmp_path / "parts" / name).unlink(missing_ok=True)
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000001.pth")
    parts = train(rendered, tmp_path / "parts", "DATALOADER.NUM_WORKERS", "2", resume=True)
    assert "Starting training from iteration 2" in (tmp_path / "parts" / "log.txt").read_text()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert all(tensor.isfinite().all() for tensor in whole.values())
