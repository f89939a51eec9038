import functools

import pytest

from balanced_lvis.config import default_config, load_config
from balanced_lvis.config_files.keys import flat
from balanced_lvis.experiments.methods import METHODS as TABLE
from balanced_lvis.experiments.small_rendered import override_words
from balanced_lvis.utils.errors import InputError
from tests.common import CONFIGS

# tests/classification has the others.
ALL_CONFIGS = sorted(path for path in CONFIGS.rglob("*.yaml") if CONFIGS / "classification" not in path.parents)


@pytest.mark.parametrize("path", ALL_CONFIGS, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_config_loads(path):
    load_config(path)


def test_a_config_for_custom_datasets_may_be_copied_anywhere(tmp_path):
    for path in (CONFIGS / "custom").glob("*.yaml"):
        copy = tmp_path / path.name
        copy.write_text(path.read_text())
        assert load_config(copy) == load_config(path)


ACTIVATION = "MODEL.ROI_BOX_HEAD.ACTIVATION."
SAMPLER = {"DATALOADER.SAMPLER_TRAIN", "DATALOADER.REPEAT_THRESHOLD"}
SECOND_STAGE = {"MODEL.META_ARCHITECTURE", "MODEL.WEIGHTS", "SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD"}
PIXELS = {"INPUT.COPY_PASTE.MIN_AREA", "INPUT.COPY_PASTE.MAX_BOX_SHIFT"}  # scaled to the rendered images
# Where a method may differ from RFS, beside its activation and output folder; "schedule" is the second stage's own.
METHODS = {
    "rfs": set(),
    "sigmoid": SAMPLER,
    "rfs_softmax": set(),
    "eql": set(),
    "balanced_sigmoid": set(),
    "balanced_sigmoid_sampled": {"MODEL.CLASS_PRIOR.SAMPLED"},
    "balanced_softmax": set(),
    "irfs": {"DATALOADER.SAMPLER_TRAIN"},
    "copy_paste": {"INPUT.COPY_PASTE.ENABLED", "INPUT.COPY_PASTE.RARITY_POWER", *PIXELS},
    "crt": SECOND_STAGE | SAMPLER,
    "lws": SECOND_STAGE
    | SAMPLER
    | {
        "MODEL.DECOUPLED.CLASSIFIER",
        "MODEL.DECOUPLED.SCALE_FORM",
        "MODEL.DECOUPLED.SCALE_WEIGHT_DECAY",
    },
    "decoupled_sigmoid": SECOND_STAGE | {"MODEL.DECOUPLED.CLASSIFIER"},
    "decoupled_balanced_sigmoid": SECOND_STAGE | {"MODEL.DECOUPLED.CLASSIFIER"},
    "decoupled_balanced_softmax": SECOND_STAGE | {"MODEL.DECOUPLED.CLASSIFIER"},
    "balms": SECOND_STAGE | {"MODEL.DECOUPLED.CLASSIFIER", "SOLVER.META.ENABLED"},
    "federated": set(),
    "federated_detectron2": {"MODEL.ROI_HEADS.SCORE_THRESH_TEST"},
    "drop_loss": set(),
    "gumbel": set(),
    "gol": set(),
    "ecm": {
        "SOLVER.WARMUP_ITERS",
        "SOLVER.WARMUP_FACTOR",
        "SOLVER.CLIP_GRADIENTS.ENABLED",
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
    },
    "sigmoid_focal": set(),
    "class_balanced": set(),
    "sigmoid_background": SAMPLER,
    "eqlv2": SAMPLER,
    "seesaw": {"MODEL.ROI_MASK_HEAD.TEMPERATURE"},
    "seesaw_linear_mask": set(),
    "decoupled_loce": SECOND_STAGE | {"MODEL.DECOUPLED.CLASSIFIER"},
    "decoupled_acsl": SECOND_STAGE | SAMPLER | {"MODEL.DECOUPLED.CLASSIFIER"},
    "decoupled_bacl": SECOND_STAGE | SAMPLER | {"MODEL.DECOUPLED.CLASSIFIER"},
}
UNIFORM = {"sigmoid", "sigmoid_background", "eqlv2", "decoupled_acsl", "decoupled_bacl"}
# Schedules of second stages whose authors don't use that of BALMS: epochs of 99,388 images in batches of 16.
SCHEDULES = {
    "decoupled_loce": (6 * 6212, (3 * 6212, 5 * 6212)),
    "decoupled_acsl": (12 * 6212, (8 * 6212, 11 * 6212)),
    "decoupled_bacl": (12 * 6212, (8 * 6212, 11 * 6212)),
}
# Keys in which not every config of a method differs.
SOMETIMES = {
    "DATALOADER.REPEAT_THRESHOLD",
    "MODEL.DECOUPLED.SCALE_WEIGHT_DECAY",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.WARMUP_FACTOR",
}
SETS = {"r50_": {"SOLVER.STEPS"}, "r101_": {"SOLVER.STEPS"}, "rendered/": {"SOLVER.WARMUP_ITERS"}}


@functools.cache
def _flat_rfs(prefix):
    return flat(load_config(f"{CONFIGS}/{prefix}rfs.yaml"))


@pytest.mark.parametrize("prefix", SETS)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_differs_from_rfs_in_what_makes_it_alone(prefix, method):
    """The comparison is on equal terms."""
    rfs, cfg = _flat_rfs(prefix), flat(load_config(f"{CONFIGS}/{prefix}{method}.yaml"))
    different = {key for key in rfs if rfs[key] != cfg[key] and not key.startswith(ACTIVATION)} - {"OUTPUT_DIR"}
    schedule = SETS[prefix] if METHODS[method] >= SECOND_STAGE else set()
    assert different <= METHODS[method] | schedule
    assert METHODS[method] - different <= SOMETIMES | PIXELS
    assert cfg["OUTPUT_DIR"].endswith(method)


@pytest.mark.parametrize("prefix", SETS)
def test_a_second_stage_starts_where_its_first_stage_ends(prefix):
    for method in METHODS:
        cfg = load_config(f"{CONFIGS}/{prefix}{method}.yaml")
        if cfg.MODEL.META_ARCHITECTURE != "DecoupledRCNN":
            continue
        first = load_config(f"{CONFIGS}/{prefix}{TABLE[method].first_stage}.yaml")
        assert f"{first.OUTPUT_DIR}/model_final.pth" == cfg.MODEL.WEIGHTS


@pytest.mark.parametrize("depth", [50, 101])
def test_lvis_configs_say_what_the_recipe_is(depth):
    for method in METHODS:
        cfg = load_config(CONFIGS / f"r{depth}_{method}.yaml")
        assert depth == cfg.MODEL.RESNETS.DEPTH
        assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 1203
        lowest_score = 0.02 if method == "federated_detectron2" else 1e-4
        assert lowest_score == cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
        assert cfg.TEST.DETECTIONS_PER_IMAGE == 300
        assert tuple(cfg.INPUT.MIN_SIZE_TRAIN) == (640, 672, 704, 736, 768, 800)
        assert cfg.SOLVER.BASE_LR == 0.02
        if cfg.MODEL.META_ARCHITECTURE == "DecoupledRCNN":
            schedule = SCHEDULES.get(method, (22_000, (11_000, 18_000)))
            assert schedule == (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS)
        else:
            assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (180_000, (120_000, 160_000))
        if cfg.DATALOADER.SAMPLER_TRAIN != "ClassAwareTrainingSampler" and method not in UNIFORM:
            assert cfg.DATALOADER.SAMPLER_TRAIN.removeprefix("InstanceAware") == "RepeatFactorTrainingSampler"
            assert cfg.DATALOADER.REPEAT_THRESHOLD == 0.001


@pytest.mark.parametrize("depth", [50, 101])
def test_lvis_configs_agree_with_detectron2s_own_lvis_config(depth):
    from detectron2 import model_zoo

    stock = model_zoo.get_config(f"LVISv1-InstanceSegmentation/mask_rcnn_R_{depth}_FPN_1x.yaml")
    ours = load_config(CONFIGS / f"r{depth}_rfs.yaml")
    differ = {key for key, value in flat(stock).items() if flat(ours)[key] != value}
    # WARMUP_FACTOR is 1/1000 in both, once as a fraction and once in the yaml's words.
    assert differ <= {"MODEL.ROI_HEADS.NAME", "MODEL.RPN.HEAD_NAME", "OUTPUT_DIR"}


def test_the_quick_start_pair_differs_in_the_activation_only():
    baseline = load_config(CONFIGS / "quick_start" / "sigmoid.yaml")
    balanced = load_config(CONFIGS / "quick_start" / "balanced_sigmoid.yaml")
    balanced.MODEL.ROI_BOX_HEAD.ACTIVATION = baseline.MODEL.ROI_BOX_HEAD.ACTIVATION
    balanced.OUTPUT_DIR = baseline.OUTPUT_DIR
    assert balanced == baseline


def write(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "MODEL:\n  ROI_BOX_HEAD:\n    ACTIVATION:\n      NMAE: x\n",
            r"ACTIVATION.NMAE.*Did you mean .*NAME\?.*SIGMOID",
        ),
        ("MODLE:\n  MASK_ON: True\n", r"unknown config key MODLE.*Did you mean MODEL\?"),
        ("MODEL: [unclosed\n", "x.yaml"),
        ("", "x.yaml' must be a yaml mapping.*it is empty"),
        ("- MODEL\n", "x.yaml' must be a yaml mapping.*it is a list"),
        ("_BASE_: nowhere.yaml\n", "_BASE_ .*nowhere.yaml"),
        ("SOLVER:\n  MAX_ITER: many\n", "MAX_ITER"),
    ],
)
def test_bad_files_are_explained(tmp_path, text, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        load_config(write(tmp_path, text))


def test_a_missing_file_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.yaml.*looked in"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SOLVER.BASE_LR"], "KEY VALUE pairs"),
        ("SOLVER.BASE_LR 1", "opts is of type str; pass a list"),
        ({"SOLVER.BASE_LR": 1}, "opts is of type dict; pass a list"),
        (3, "opts is of type int; pass a list"),
        (["FOO", "1"], "Valid under the top level: CUDNN_BENCHMARK"),
        (["SOLVER.BASELR", "1"], r"SOLVER.BASELR.*Did you mean SOLVER.BASE_LR\?"),
        (["SOLVR.BASE_LR", "1"], r"Did you mean SOLVER\?"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER is 'many': SOLVER.MAX_ITER must be of type int, like 40000"),
        (["MODEL.ROI_BOX_HEAD.ACTIVATION", "sigmoid"], "ACTIVATION is a section of keys, not a value; set keys in it"),
        (["SOLVER.MAX_ITER", "3", "--resume"], "--resume comes after"),
        (["SOLVER.MAX_ITER.FOO", "3"], "unknown config key SOLVER.MAX_ITER.FOO"),
    ],
)
def test_bad_overrides_are_explained(opts, message):
    with pytest.raises(InputError, match=message):
        load_config("", opts)


@pytest.mark.parametrize("value", ["2", 2, " -3", "0"])
def test_a_whole_number_overrides_a_float(value):
    rate = load_config("", ["SOLVER.BASE_LR", value]).SOLVER.BASE_LR
    assert isinstance(rate, float) and rate == float(value)


@pytest.mark.parametrize("version", ["VERSION: 2\n", ""])
def test_a_whole_number_in_a_file_may_stand_for_a_float(tmp_path, version):
    file = tmp_path / "config.yaml"
    file.write_text(f"{version}SOLVER:\n  BASE_LR: 1\n  MAX_ITER: 3\n")
    solver = load_config(file).SOLVER
    assert (solver.BASE_LR, solver.MAX_ITER) == (1.0, 3) and isinstance(solver.BASE_LR, float)
    file.write_text("SOLVER:\n  BASE_LR: true\n")
    with pytest.raises(InputError, match="SOLVER.BASE_LR must be of type float"):
        load_config(file)


@pytest.mark.parametrize("version", ["VERSION: 1\n", ""])
def test_keys_of_detectron2s_first_version_are_upgraded(tmp_path, version):
    (tmp_path / "base.yaml").write_text("DATASETS: {CUSTOM: {a: &files {JSON: a.json, IMAGES: a}, b: *files}}\n")
    file = tmp_path / "config.yaml"
    file.write_text(
        f"{version}_BASE_: base.yaml\nMODEL: {{WEIGHT: x}}\nDATASETS: {{CUSTOM: {{a: {{JSON: c.json}}}}}}\n"
    )
    cfg = load_config(file)
    assert (cfg.VERSION, cfg.MODEL.WEIGHTS, "WEIGHT" in cfg.MODEL) == (2, "x", False)
    assert (cfg.DATASETS.CUSTOM.a.JSON, cfg.DATASETS.CUSTOM.b.JSON) == ("c.json", "a.json")
    file.write_text("VERSION: 3\n")
    with pytest.raises(InputError, match="Cannot merge a v3 config into a v2 config"):
        load_config(file)


@pytest.mark.parametrize("value", [True, "True", "2 3", ""])
def test_anything_else_than_a_number_is_an_error_for_a_float(value):
    with pytest.raises(InputError, match="SOLVER.BASE_LR must be of type float"):
        load_config("", ["SOLVER.BASE_LR", value])


def test_overrides_may_be_python_values():
    pairs = {"SOLVER.MAX_ITER": 3, "DATASETS.TEST": ("a", "b"), "SOLVER.BASE_LR": 0.5, "MODEL.MASK_ON": False}
    assert load_config("", [word for pair in pairs.items() for word in pair]) == load_config("", override_words(pairs))


def test_a_config_file_of_another_type_is_an_input_error():
    with pytest.raises(InputError, match="config_file is 3, of type int; pass the path of a file"):
        load_config(3)


def test_defaults_do_not_need_a_file():
    assert load_config() == default_config()


def test_the_home_folder_may_be_a_tilde_in_any_value(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text(
        "MODEL: {WEIGHTS: ~/model.pth}\n"
        "DATASETS: {CUSTOM: {mine: {JSON: '~/mine.json', IMAGES: ~/images}}, PROPOSAL_FILES_TRAIN: ['~/p.pkl', a~b]}\n"
    )
    opts = ["OUTPUT_DIR", "~/out", "MODEL.CLASS_PRIOR.FILE", "~/prior.json", "DATASETS.CUSTOM.other.JSON", "~/o.json"]
    cfg = load_config("~/mine.yaml", [*opts, "DATASETS.RENDERED.ROOT", "~"])
    assert (f"{tmp_path}/model.pth", f"{tmp_path}/out") == (cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR)
    assert (f"{tmp_path}/prior.json", str(tmp_path)) == (cfg.MODEL.CLASS_PRIOR.FILE, cfg.DATASETS.RENDERED.ROOT)
    assert cfg.DATASETS.CUSTOM.mine == {"JSON": f"{tmp_path}/mine.json", "IMAGES": f"{tmp_path}/images"}
    assert f"{tmp_path}/o.json" == cfg.DATASETS.CUSTOM.other.JSON
    assert list(cfg.DATASETS.PROPOSAL_FILES_TRAIN) == [f"{tmp_path}/p.pkl", "a~b"]
    # All else is what it is without.
    assert load_config().dump() == default_config().dump()


def test_a_folder_as_config_file_is_called_one(tmp_path):
    with pytest.raises(InputError, match="is a folder; name the file in it"):
        load_config(tmp_path)
