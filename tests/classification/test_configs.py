"""The configs in configs/classification, and the commands on a machine without Detectron2."""

import pytest

from balanced_lvis.classification import load_config
from balanced_lvis.classification.methods import METHODS
from balanced_lvis.classification.schedules import learning_rate
from balanced_lvis.config_files.keys import flat
from balanced_lvis.utils.errors import InputError
from tests.classification.made import characters_opts
from tests.common import CONFIGS
from tests.test_detectron2 import HIDE, python

FOLDER = CONFIGS / "classification"
ALL_CONFIGS = sorted(FOLDER.rglob("*.yaml"))
COMPLETE = ("characters", "fashion_mnist", "cifar10", "cifar100")  # with every method


@pytest.mark.parametrize("path", ALL_CONFIGS, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_every_config_loads_and_writes_to_a_folder_of_its_name(path):
    cfg = load_config(path)
    if FOLDER / "base" not in path.parents:
        assert f"output/classification/{path.parent.name}/{path.stem}" == cfg.OUTPUT_DIR


@pytest.mark.parametrize("dataset", COMPLETE)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_differs_from_softmax_in_what_makes_it_alone(dataset, method):
    """The comparison is on equal terms."""
    softmax, cfg = (flat(load_config(FOLDER / dataset / f"{name}.yaml")) for name in ("softmax", method))
    different = {key for key in softmax if softmax[key] != cfg[key]} - {"OUTPUT_DIR"}
    allowed = {key for key in softmax if key.startswith(("MODEL.ACTIVATION.", "MODEL.CALIBRATION."))}
    if METHODS[method].first_stage and not METHODS[method].evaluates_only:
        allowed |= {"MODEL.DECOUPLED.ENABLED", "SOLVER.META.ENABLED", "SOLVER.MAX_ITER", "SOLVER.WARMUP_ITERS"}
    if method == "class_balanced_sampling":
        allowed |= {"DATALOADER.SAMPLER_TRAIN"}
    assert different <= allowed and (different or method == "softmax")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/ldam_drw.yaml")), ids=lambda path: path.parent.name)
def test_deferred_reweighting_starts_at_four_fifths_of_the_schedule(path):
    cfg = load_config(path)
    assert cfg.MODEL.ACTIVATION.LDAM.DRW_START == cfg.SOLVER.MAX_ITER * 4 // 5


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_the_settings_of_the_papers(dataset):
    paper, ldam = (load_config(FOLDER / f"{dataset}{suffix}" / "softmax.yaml") for suffix in ("", "_200_epochs"))
    assert (paper.SOLVER.MAX_ITER, paper.SOLVER.IMS_PER_BATCH, paper.SOLVER.WARMUP_ITERS) == (13000, 512, 800)
    assert paper.INPUT.TRANSFORMS == ("crop", "flip", "autoaugment", "cutout")
    images = {"cifar10": 12406, "cifar100": 10847}[dataset]
    epoch = -(-images // 128)
    assert 200 * epoch == ldam.SOLVER.MAX_ITER and (160 * epoch, 180 * epoch) == ldam.SOLVER.STEPS
    assert 5 * epoch == ldam.SOLVER.WARMUP_ITERS and ldam.SOLVER.WEIGHT_DECAY == 2e-4
    assert paper.MODEL.NETWORK.NAME == ldam.MODEL.NETWORK.NAME == "resnet32"
    assert paper.SOLVER.BASE_LR == ldam.SOLVER.BASE_LR == 0.1
    assert paper.SOLVER.MOMENTUM == ldam.SOLVER.MOMENTUM == 0.9
    assert (paper.SOLVER.LR_SCHEDULE, ldam.SOLVER.LR_SCHEDULE) == ("cosine", "steps")
    assert (paper.SOLVER.WARMUP_FACTOR, ldam.SOLVER.WARMUP_FACTOR) == (0.5, 0.0)
    assert paper.SOLVER.WEIGHT_DECAY == 5e-4 and ldam.SOLVER.GAMMA == 0.01
    assert learning_rate(paper, 799) == pytest.approx(0.1) and 0 < learning_rate(paper, 12999) < 1e-8
    rates = [learning_rate(ldam, epoch * at - 1) for at in (5, 160, 180, 200)]
    assert rates == pytest.approx([0.1, 0.1, 1e-3, 1e-5])
    eql = load_config(FOLDER / dataset / "eql.yaml").MODEL.ACTIVATION.SOFTMAX_EQUALIZATION
    assert (eql.THRESHOLD, eql.GAMMA) == (0.005, 0.9)


def test_wrong_keys_and_values_are_errors():
    with pytest.raises(InputError, match="Did you mean SOLVER.MAX_ITER"):
        load_config("classification/characters/softmax", ["SOLVER.MAX_ITERS", 3])
    with pytest.raises(InputError, match="Did you mean MODEL.ACTIVATION.FOCAL.GAMMA"):
        load_config("classification/characters/focal", ["MODEL.ACTIVATION.FOCAL.GAMA", 3])
    with pytest.raises(InputError, match="SOLVER.BASE_LR must be of type float"):
        load_config("classification/characters/softmax", ["SOLVER.BASE_LR", "high"])
    with pytest.raises(InputError, match="Similar names: classification/characters/softmax"):
        load_config("classification/characters/softmx")


def test_a_file_of_another_package_adds_a_method(tmp_path, monkeypatch):
    (tmp_path / "outside_loss.py").write_text(
        "from balanced_lvis.activations import Softmax, register_activation\n"
        "@register_activation('outside')\n"
        "class Outside(Softmax):\n"
        "    def __init__(self, num_classes, prior=None, background=True, *, power: float = 2.0):\n"
        "        super().__init__(num_classes, prior, background)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from balanced_lvis.classification import load_config
opts = ["IMPORTS", "outside_loss", "MODEL.ACTIVATION.OUTSIDE.POWER", 3.0]
cfg = load_config("classification/characters/softmax", opts)
print(cfg.MODEL.ACTIVATION.OUTSIDE.POWER)
"""
    assert python(code).stdout == "3.0\n"


def test_without_any_detectron2_the_command_trains_and_is_quiet(tmp_path):
    words = ["--config-file", "classification/characters/ldam_drw", *characters_opts(tmp_path, tmp_path / "out")]
    words += ["MODEL.ACTIVATION.LDAM.DRW_START", "2"]
    code = f"""
import balanced_lvis_cli
sys.argv = ["balanced-lvis", "train-classifier", *{words!r}]
status = balanced_lvis_cli.main()
assert not any(name.startswith(("detectron2", "LabGym")) for name in sys.modules)
sys.exit(status)
"""
    done = python(HIDE + code, OMP_NUM_THREADS="1")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert (tmp_path / "out" / "results.json").exists() and "Accuracy" in (tmp_path / "out" / "log.txt").read_text()


def test_without_any_detectron2_the_experiment_is_imported_and_shows_its_options():
    code = """
import balanced_lvis_cli
sys.argv = ["balanced-lvis", "classification", "--help"]
try:
    balanced_lvis_cli.main()
finally:
    assert not any(name.startswith(("detectron2", "LabGym")) for name in sys.modules)
"""
    done = python(HIDE + code)
    assert done.returncode == 0 and "--imbalance" in done.stdout, done.stderr
