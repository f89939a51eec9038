"""Checkpoints of the same names and shapes, but with another kind of classifier or mask predictor."""

import pytest
import torch
from detectron2.modeling import build_model

from balanced_lvis.config import load_config
from balanced_lvis.engine.checkpoints.conversion import convert_checkpoint
from balanced_lvis.engine.checkpoints.identity import Identity
from balanced_lvis.engine.checkpoints.weights import load_first_stage, load_for_evaluation
from balanced_lvis.prediction.predictor import Predictor
from balanced_lvis.utils.errors import InputError
from tests.common import CONFIGS, rendered_opts

CONFIG = CONFIGS / "quick_start" / "balanced_sigmoid.yaml"
ACTIVATION = "MODEL.ROI_BOX_HEAD.ACTIVATION"
MASKS = ["MODEL.ROI_MASK_HEAD.TEMPERATURE", "20.0"]
NORMALIZED = "normalized with temperature 20"


@pytest.fixture
def config(rendered, tmp_path):
    """Function from an activation, and other words, to a config."""

    def make(activation="sigmoid_background", *words):
        opts = [*rendered_opts(rendered, tmp_path / "out"), f"{ACTIVATION}.NAME", activation, *words]
        return load_config(CONFIG, [str(word) for word in opts])

    return make


def saved(cfg, path, with_identity=True):
    content = {"model": build_model(cfg).state_dict()}
    if with_identity:
        content[Identity.KEY] = Identity.from_config(cfg).state_dict()
    torch.save(content, path)
    return str(path)


def load(cfg, path):
    return load_for_evaluation(build_model(cfg), path, Identity.from_config(cfg))


@pytest.mark.parametrize(
    ("activation", "words", "classifier", "masks"),
    [
        ("sigmoid", [], "linear", "plain"),
        ("effective_class_margin", MASKS, NORMALIZED, NORMALIZED),
        ("seesaw", [f"{ACTIVATION}.SEESAW.TEMPERATURE", 16.0], "normalized with temperature 16", "plain"),
        ("ldam", ["MODEL.MASK_ON", "False"], "cosine with scale 30", ""),
    ],
)
def test_the_kinds_of_heads_are_recorded(config, activation, words, classifier, masks):
    state = Identity.from_config(config(activation, *words)).state_dict()
    assert (state["classifier"], state["mask_predictor"]) == (classifier, masks)


def test_a_linear_classifier_is_not_evaluated_as_a_normalized_one(config, tmp_path):
    """Both are of one family, and their tensors have the same names and shapes."""
    path = saved(config(), tmp_path / "x.pth")
    with pytest.raises(InputError, match=f"a classifier that is linear, but that of the config is {NORMALIZED}"):
        load(config("effective_class_margin"), path)
    path = saved(config("effective_class_margin"), tmp_path / "y.pth")
    load(config("effective_class_margin"), path)
    with pytest.raises(InputError, match=f"a classifier that is {NORMALIZED}, but that of the config is linear"):
        load(config(), path)
    other = config("effective_class_margin", f"{ACTIVATION}.EFFECTIVE_CLASS_MARGIN.TEMPERATURE", 10.0)
    with pytest.raises(InputError, match="temperature 20, but that of the config is normalized with temperature 10"):
        load(other, path)
    (tmp_path / "config.yaml").write_text(config().dump())
    with pytest.raises(InputError, match="a classifier that is normalized"):
        Predictor.from_checkpoint(path)


def test_so_it_is_with_mask_predictors(config, tmp_path):
    path = saved(config("sigmoid", *MASKS), tmp_path / "x.pth")
    load(config("sigmoid", *MASKS), path)
    load(config("sigmoid", "MODEL.MASK_ON", "False"), path)
    with pytest.raises(InputError, match=f"a mask predictor that is {NORMALIZED}, but that of the config is plain"):
        load(config("sigmoid"), path)


def test_checkpoints_that_do_not_state_them_have_the_heads_of_detectron2(config, tmp_path):
    older = {"model": build_model(config()).state_dict(), Identity.KEY: Identity.from_config(config()).state_dict()}
    del older[Identity.KEY]["classifier"], older[Identity.KEY]["mask_predictor"]
    torch.save(older, tmp_path / "older.pth")
    theirs = saved(config(), tmp_path / "theirs.pth", with_identity=False)
    for path in (str(tmp_path / "older.pth"), theirs):
        load(config(), path)
        with pytest.raises(InputError, match="a classifier that is linear, but"):
            load(config("effective_class_margin"), path)
        with pytest.raises(InputError, match="a mask predictor that is plain, but"):
            load(config("sigmoid_background", *MASKS), path)


@pytest.mark.parametrize("classifier", ["retrain", "finetune"])
def test_a_second_stage_freezes_a_mask_predictor_of_the_same_kind(config, tmp_path, classifier):
    stage = ["MODEL.META_ARCHITECTURE", "DecoupledRCNN", "MODEL.DECOUPLED.CLASSIFIER", classifier]
    path = saved(config("sigmoid", *MASKS), tmp_path / "x.pth")
    second = config("sigmoid", *stage, *MASKS)
    load_first_stage(build_model(second), path, Identity.from_config(second))
    second = config("sigmoid", *stage)
    with pytest.raises(InputError, match=f"a mask predictor that is {NORMALIZED}, but that of the config is plain"):
        load_first_stage(build_model(second), path, Identity.from_config(second))


def test_a_second_stage_may_replace_a_classifier_of_another_kind_but_not_keep_it(config, tmp_path):
    path = saved(config("effective_class_margin"), tmp_path / "x.pth")
    stage = ["MODEL.META_ARCHITECTURE", "DecoupledRCNN", "MODEL.DECOUPLED.CLASSIFIER"]
    second = config("sigmoid_background", *stage, "retrain")
    load_first_stage(build_model(second), path, Identity.from_config(second))
    second = config("sigmoid_background", *stage, "finetune")
    with pytest.raises(InputError, match=f"a classifier that is {NORMALIZED}, but that of the config is linear"):
        load_first_stage(build_model(second), path, Identity.from_config(second))


def test_a_run_is_resumed_with_the_same_heads_only(config):
    before, now = (Identity.from_config(config("sigmoid", *words)) for words in (MASKS, []))
    before.load_state_dict(before.state_dict())
    with pytest.raises(InputError, match="The checkpoint to resume from has a mask predictor that is normalized"):
        now.load_state_dict(before.state_dict())


def test_a_conversion_keeps_them(config, tmp_path):
    path = saved(config("sigmoid", *MASKS), tmp_path / "x.pth")
    convert_checkpoint(path, tmp_path / "y.pth")
    load(config("sigmoid", *MASKS), str(tmp_path / "y.pth"))
