import pytest

from balanced_lvis.config import default_config, load_config
from balanced_lvis.errors import InputError

from .common import CONFIGS

ALL_CONFIGS = sorted(CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("path", ALL_CONFIGS, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_config_loads_and_stands_alone(path):
    assert "_BASE_" not in path.read_text()
    load_config(path)


@pytest.mark.parametrize("depth", [50, 101])
def test_lvis_configs_say_what_the_recipe_is(depth):
    rfs = load_config(CONFIGS / f"r{depth}_rfs.yaml")
    balanced = load_config(CONFIGS / f"r{depth}_balanced_sigmoid.yaml")
    for cfg in (rfs, balanced):
        assert depth == cfg.MODEL.RESNETS.DEPTH
        assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 1203
        assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 1e-4
        assert cfg.TEST.DETECTIONS_PER_IMAGE == 300
        assert cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler"
        assert cfg.DATALOADER.REPEAT_THRESHOLD == 0.001
        assert tuple(cfg.INPUT.MIN_SIZE_TRAIN) == (640, 672, 704, 736, 768, 800)
        assert cfg.SOLVER.MAX_ITER == 180_000
    # Nothing but the activation and the output folder differs: the comparison is on equal terms.
    balanced.MODEL.ROI_BOX_HEAD.ACTIVATION = rfs.MODEL.ROI_BOX_HEAD.ACTIVATION
    balanced.OUTPUT_DIR = rfs.OUTPUT_DIR
    assert balanced == rfs


@pytest.mark.parametrize("depth", [50, 101])
def test_lvis_configs_agree_with_detectron2s_own_lvis_config(depth):
    from detectron2 import model_zoo

    stock = model_zoo.get_config(f"LVISv1-InstanceSegmentation/mask_rcnn_R_{depth}_FPN_1x.yaml")
    ours = load_config(CONFIGS / f"r{depth}_rfs.yaml")
    differ = {key for key, value in flat(stock).items() if flat(ours)[key] != value}
    # WARMUP_FACTOR is 1/1000 in both, once as a fraction and once in the yaml's words.
    assert differ <= {"MODEL.ROI_HEADS.NAME", "OUTPUT_DIR"}


def flat(node, prefix=""):
    out = {}
    for key, value in node.items():
        out.update(flat(value, f"{prefix}{key}.") if hasattr(value, "items") else {prefix + key: value})
    return out


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
        ("", "x.yaml must be a yaml mapping"),
        ("- MODEL\n", "x.yaml must be a yaml mapping"),
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
        (["SOLVER.BASELR", "1"], r"SOLVER.BASELR.*Did you mean SOLVER.BASE_LR\?"),
        (["SOLVR.BASE_LR", "1"], r"Did you mean SOLVER\?"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER many"),
        (["SOLVER.MAX_ITER.FOO", "3"], "unknown config key SOLVER.MAX_ITER.FOO"),
    ],
)
def test_bad_overrides_are_explained(opts, message):
    with pytest.raises(InputError, match=message):
        load_config("", opts)


def test_defaults_do_not_need_a_file():
    assert load_config() == default_config()
