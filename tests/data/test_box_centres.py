"""Box centres of any dataset, and the fractal dimensions that priors get from them."""

import logging

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode

from balanced_lvis.data.annotations.counting import count_classes
from balanced_lvis.data.box_centres import box_centres, dimension_of_records
from balanced_lvis.data.dataset_records import load_records
from balanced_lvis.data.index import ChainedRecords
from balanced_lvis.data.training_prior import class_prior_from_config, class_prior_of_dataset
from balanced_lvis.engine.saved_prior import save_class_prior
from balanced_lvis.priors import ClassLists, ClassPrior
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.run_files import SAVED_PRIOR
from tests import reference_calibration as naive


def record(*annotations, **fields):
    return {"image_id": 7, "width": 200, "height": 100, "annotations": list(annotations), **fields}


def annotation(box, mode=BoxMode.XYWH_ABS, **fields):
    return {"category_id": 0, "bbox": box, "bbox_mode": mode, **fields}


def test_boxes_of_both_forms_have_the_same_centre_and_crowds_none():
    records = [
        record(annotation([20, 10, 40, 20]), annotation([20, 10, 60, 30], BoxMode.XYXY_ABS)),
        record(),
        record(annotation([0, 0, 9, 9], iscrowd=1), annotation([200, 100, 0, 0])),
    ]
    np.testing.assert_allclose(box_centres(records), [[0.2, 0.2], [0.2, 0.2], [1, 1]])
    assert box_centres([]).shape == (0, 2)


def test_boxes_that_are_not_finite_are_left_out_with_a_warning(caplog):
    records = [record(*[annotation([x, 0, 0, 0]) for x in (0, 50, 150, 199, float("nan"))])]
    with caplog.at_level(logging.WARNING):
        found = dimension_of_records(records, 1)
    assert "1 of 5 boxes are not finite" in caplog.text
    assert found[0] == pytest.approx(naive.fractal_dimension([(x / 200, 0) for x in (0, 50, 150, 199)]))


def test_an_image_without_a_size_is_left_out_without_a_numerical_warning(recwarn):
    assert not np.isfinite(box_centres([record(annotation([0, 0, 9, 9]), width=0)])).all()
    assert not recwarn.list


@pytest.mark.parametrize("missing", ["width", "bbox"])
def test_records_without_a_size_or_a_box_are_named(missing):
    made = record(annotation([1, 1, 1, 1]))
    for part in (made, made["annotations"][0]):
        part.pop(missing, None)
    with pytest.raises(InputError, match=f"Image 7 has no '{missing}', which the fractal dimension"):
        box_centres([made])


def expected_dimensions(records, num_classes):
    by_class = [[] for _ in range(num_classes)]
    for image in records:
        for one in image["annotations"]:
            x, y, w, h = one["bbox"]
            by_class[one["category_id"]].append(((x + w / 2) / image["width"], (y + h / 2) / image["height"]))
    return [naive.fractal_dimension(centres) for centres in by_class]


def test_an_index_a_list_and_a_file_give_the_same_dimensions(rendered, tiny_cfg):
    indexed, listed = load_records("rendered_train"), DatasetCatalog.get("rendered_train")
    expected = expected_dimensions(listed, 12)
    assert len(set(expected)) > 2
    prior = class_prior_of_dataset("rendered_train")
    for records in (indexed, listed):
        np.testing.assert_allclose(dimension_of_records(records, 12), expected, atol=1e-9)
    (file,) = rendered.glob("**/*train*.json")
    counted = count_classes(file, boxes=True)
    np.testing.assert_allclose(counted.fractal_dimension, expected, atol=1e-9)
    assert counted.image_count.tolist() == prior.image_count.tolist()
    assert count_classes(file).fractal_dimension is None


def test_parts_of_an_index_have_their_own_centres(rendered):
    records = load_records("rendered_train")
    some = records.leaving_out([0, 3, 4])
    for part in (some, ChainedRecords([some, records]), ChainedRecords([some, records]).leaving_out([1, 30])):
        np.testing.assert_array_equal(box_centres(part), box_centres(list(part)))
        assert len(box_centres(part)) == len(ClassLists.of(part).classes)


# ------------------------------------------------------------------ priors


def test_a_prior_has_dimensions_where_they_are_asked_for(tiny_cfg):
    assert class_prior_from_config(tiny_cfg).fractal_dimension is None
    found = class_prior_from_config(tiny_cfg, boxes=True).fractal_dimension
    np.testing.assert_allclose(found, expected_dimensions(DatasetCatalog.get("rendered_train"), 12), atol=1e-9)


def test_dimensions_of_several_training_sets_are_of_all_boxes_together(tiny_cfg):
    tiny_cfg.DATASETS.TRAIN = ("rendered_train", "rendered_val")
    found = class_prior_from_config(tiny_cfg, boxes=True).fractal_dimension
    records = [*DatasetCatalog.get("rendered_train"), *DatasetCatalog.get("rendered_val")]
    np.testing.assert_allclose(found, expected_dimensions(records, 12), atol=1e-9)


def test_training_saves_them(tiny_cfg):
    save_class_prior(tiny_cfg)
    saved = ClassPrior.load(f"{tiny_cfg.OUTPUT_DIR}/{SAVED_PRIOR}")
    assert saved.fractal_dimension.tolist() == class_prior_from_config(tiny_cfg, boxes=True).fractal_dimension.tolist()


def test_a_dataset_without_sizes_is_saved_without_them_and_a_warning(tiny_cfg, own_catalogs, caplog):
    records = [{k: v for k, v in r.items() if k != "width"} for r in DatasetCatalog.get("rendered_train")]
    tiny_cfg.DATASETS.TRAIN = ("sizeless",)
    DatasetCatalog.register("sizeless", lambda: records)
    from detectron2.data import MetadataCatalog

    MetadataCatalog.get("sizeless").thing_classes = MetadataCatalog.get("rendered_train").thing_classes
    with caplog.at_level(logging.WARNING):
        save_class_prior(tiny_cfg)
    assert "saved without the fractal dimension" in caplog.text
    assert ClassPrior.load(f"{tiny_cfg.OUTPUT_DIR}/{SAVED_PRIOR}").fractal_dimension is None


def test_lvis_without_its_annotations_has_counts_but_no_dimensions(tiny_cfg):
    tiny_cfg.merge_from_list(["DATASETS.TRAIN", ("lvis_v1_train",), "MODEL.ROI_HEADS.NUM_CLASSES", 1203])
    assert class_prior_from_config(tiny_cfg).num_classes == 1203
    with pytest.raises(InputError, match="lvis_v1_train"):
        class_prior_from_config(tiny_cfg, boxes=True)
