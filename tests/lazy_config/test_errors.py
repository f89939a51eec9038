"""Invalid LazyConfigs and overrides are one message with the place and the remedy."""

import builtins
import importlib
import inspect
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.data import transforms as T

from balanced_lvis import _detectron2
from balanced_lvis.commands.calibrate import main as calibrate
from balanced_lvis.commands.overrides import split_overrides
from balanced_lvis.config import load_config
from balanced_lvis.config.lazy import record_lazy
from balanced_lvis.config_files.merging import merged_config
from balanced_lvis.engine.config_checks import check_config, check_lazy_parts
from balanced_lvis.engine.optimizer import build_optimizer
from balanced_lvis.engine.run import check
from balanced_lvis.prediction.predictor import _test_augmentations
from balanced_lvis.utils.errors import InputError
from tests.lazy_config.test_configs import SMALL as SMALL_WORDS
from tests.lazy_config.test_configs import SMALL_BACKBONES

SMALL = Path(__file__).with_name("small.py")


SAMPLER = (
    "from detectron2.config import LazyCall as L",
    "from detectron2.data.samplers import RepeatFactorTrainingSampler as _Sampler",
    "_factors = L(_Sampler.repeat_factors_from_category_frequency)(repeat_thresh=0.5)",
    "dataloader.train.sampler = L(_Sampler)(repeat_factors=_factors)",
)


def changed(tmp_path, *lines: str) -> Path:
    """A LazyConfig that changes the small one."""
    path = tmp_path / "changed.py"
    names = "dataloader, engine, lr_multiplier, model, optimizer, train"
    base = f"from .{SMALL.stem} import {names}"
    (tmp_path / SMALL.name).write_text(SMALL.read_text())
    path.write_text("\n".join((base, *lines)))
    return path


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("SOLVER.MAX_ITER", "whose overrides are key=value, such as train.max_iter=1000; 'SOLVER.MAX_ITER' is not"),
        ("train.max_itr=4", "train.max_itr, which is not supported. Did you mean 'max_iter'? Valid under train: "),
        ("train.amp.enable=True", "train.amp.enable, which is not supported. Did you mean 'enabled'?"),
        ("model.roi_heads.num_clases=4", "no key model.roi_heads.num_clases. Did you mean 'num_classes'?"),
        ("modl.roi_heads.num_classes=4", "no key modl. Did you mean 'model'? Valid under the top level: dataloader,"),
        ("model.backbone.norm.eps=4", "Valid under model.backbone.norm: none, as it is a value"),
        ("train.max_iter=[4", "Override 'train.max_iter=[4'"),
        ("~train.max_iter", "overrides are key=value"),
        ("--resume", "--resume comes after overrides"),
        ("train.max_iter=many", "train.max_iter: SOLVER.MAX_ITER is 'many': SOLVER.MAX_ITER must be of type int"),
        ("engine.MODEL.EMA.DECAI=0.9", "unknown config key MODEL.EMA.DECAI. Did you mean MODEL.EMA.DECAY?"),
        ("engine.SOLVER.BASE_LR=0.1", "engine.SOLVER.BASE_LR is not supported: it exists only in yaml configs, or"),
        ("engine.SOLVER.META.ENABLED=True", "engine.SOLVER.META.ENABLED is not supported"),
        ("engine.SOLVER.MAX_ITER=9", "engine.SOLVER.MAX_ITER is not supported: set train.max_iter"),
        ("model.roi_heads.box_predictor.activation.frm=x", "no key model.roi_heads.box_predictor.activation.frm."),
        ("engine=5", "engine is 5; it must be a dictionary of keys"),
        ("dataloader.train.shuffle=True", "no key dataloader.train.shuffle"),
        ("dataloader.train.prefetch_factor=2", "dataloader.train.prefetch_factor"),
    ],
)  # fmt: skip
def test_overrides(word, expected):
    with pytest.raises(InputError) as caught:
        load_config(SMALL, [word])
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["del model"], "has no dictionary 'model'; a LazyConfig to train must define model, optimizer,"),
        (["lr_multiplier = {}"], "lr_multiplier has no _target_"),
        (["engin = dict(SEED=1)"], "the dictionary 'engin' has no effect. Did you mean 'engine'?"),
        (["", "x = = 1"], "changed.py, line 3"),
        (["", "train.max_iter = 1 // 0"], "changed.py, line 3: ZeroDivisionError"),
        (["import no_such_package"], "No module named 'no_such_package'. Install the package: pip install no_such_"),
        (["from .no_such_file import model"], "no_such_file.py does not exist. Fix the config file."),
        (
            ["from detectron2.modeling import StandardROIHeads", "model.roi_heads._target_ = StandardROIHeads"],
            "model.roi_heads of the LazyConfig is StandardROIHeads; it must be L(...) of balanced_lvis.modeling.roi_he",
        ),
        (["model.roi_heads.box_predictor.pop('activation')"], "box_predictor.activation of the LazyConfig must be L("),
        (["model.roi_heads.box_predictor.activation.frm = 4"], "BalancedSigmoid has no option 'frm' here; correct"),
        (["dataloader.train._target_ = print"], "dataloader.train of the LazyConfig must be L(build_detection_train_"),
        (
            ["from detectron2.evaluation import LVISEvaluator", "dataloader.evaluator._target_ = LVISEvaluator"],
            "dataloader.evaluator of the LazyConfig is LVISEvaluator; it must be L(...) of balanced_lvis.evaluation",
        ),
        (
            ["from detectron2.config import LazyCall as L", "dataloader.train.sampler = L(print)()"],
            "dataloader.train.sampler of the LazyConfig is print, which can't be resumed; valid: TrainingSampler,",
        ),
        (
            [
                "from copy import deepcopy", "from detectron2.config import LazyCall as L",
                "from balanced_lvis.calibration import NorCal",
                "from balanced_lvis.modeling import LongTailCascadeROIHeads",
                "_heads = model.roi_heads", "_heads._target_ = LongTailCascadeROIHeads",
                "_heads.box_predictors = [deepcopy(_heads.box_predictor) for _ in range(3)]",
                "_heads.box_predictors[2].calibration = L(NorCal)(num_classes=12)",
            ],
            "The box predictors of the LazyConfig differ in calibration; it must be the same in all stages.",
        ),
        (
            ["dataloader.evaluator.dataset_name = 'other_val'"],
            "dataloader.evaluator.dataset_name of the LazyConfig is 'other_val', but dataloader.test.dataset.names is",
        ),
        (["train.output_dir = '${no.such.key}'"], "The LazyConfig's train.output_dir can't be read"),
    ],
)  # fmt: skip
def test_files(tmp_path, lines, expected):
    imported = builtins.__import__
    with pytest.raises(InputError) as caught:
        load_config(changed(tmp_path, *lines))
    assert expected in str(caught.value)
    assert builtins.__import__ is imported


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["model.backbone.depth = 4"], "model can't be built: TypeError: .*unexpected keyword argument 'depth'"),
        (["optimizer.pop('params')"], "optimizer of the LazyConfig has no params"),
        (["optimizer.learning_rate = 4"], "optimizer can't be built: TypeError"),
        (["dataloader.train.pop('mapper')"], "dataloader.train.mapper of the LazyConfig is missing"),
        (["dataloader.train.mapper = 'x'"], "dataloader.train.mapper of the LazyConfig is 'x'; set it to L"),
        (["dataloader.train.mapper.pop('_target_')"], "dataloader.train.mapper of the LazyConfig is .*; set it to L"),
        (
            ["from fvcore.transforms import NoOpTransform", "dataloader.train.mapper = {'_target_': NoOpTransform}"],
            "dataloader.train.mapper of the LazyConfig is NoOpTransform; it must be L.* of ImageMapper",
        ),
        (["dataloader.test.mapper.size = 4"], "dataloader.test.mapper can't be built: TypeError"),
        (["optimizer.params.base_lr = 'abc'"], "optimizer of the LazyConfig has a parameter group with lr 'abc'"),
        (["lr_multiplier.warmup_factor = -3"], "of the LazyConfig, after 0% of the iterations, gives the factor -3.0"),
        (["train.device = 'cud'"], "MODEL.DEVICE is 'cud'; it must be cuda or cpu"),
    ],
)
def test_parts_are_built_before_work_starts(tmp_path, lines, expected):
    cfg = load_config(changed(tmp_path, *lines))
    with pytest.raises(InputError, match=expected):
        check_config(cfg, 1, evaluation_only=False)


def test_a_missing_package_of_a_backbone_is_named(monkeypatch):
    for name in ("timm", "timm.models.layers"):
        monkeypatch.setitem(sys.modules, name, None)
    cfg = load_config("lazy/vitdet_b_sigmoid", ["train.device=cpu", "train.amp.enabled=False"])
    with pytest.raises(InputError, match="model can't be built: ModuleNotFoundError.*pip install timm"):
        check_config(cfg, 1, evaluation_only=False)


@pytest.mark.parametrize(
    "line",
    ["from detectron2.modeling.backbone import NoSuchNet", "import detectron2.no_such_module",
     "from detectron2 import model_zoo; model_zoo.get_config('common/no_such_file.py')"],
)  # fmt: skip
def test_what_the_copy_of_detectron2_lacks_is_named_with_the_official_one(tmp_path, monkeypatch, line):
    path = changed(tmp_path, line)
    for is_official, expected in ((False, "make setup DETECTRON2="), (True, "install a newer version")):
        monkeypatch.setattr(_detectron2, "is_official", lambda answer=is_official: answer)
        with pytest.raises(InputError, match="changed.py, line 2: .*no_such|changed.py, line 2: .*NoSuch") as caught:
            load_config(path)
        assert expected in str(caught.value)


def test_errors_about_settings_have_their_names_in_the_file(rendered, tmp_path):
    words = [f"engine.DATASETS.RENDERED.ROOT={rendered}", f"train.output_dir={tmp_path}"]
    cfg = load_config(SMALL, [*words, "train.max_iter=0"])
    args = type("Arguments", (), {"eval_only": False, "resume": False})
    with pytest.raises(InputError, match="SOLVER.MAX_ITER is 0(.|\n)*In the LazyConfig, SOLVER.MAX_ITER is train."):
        check(cfg, args, type("Job", (), {"world_size": 1}))


def test_a_file_that_is_gone_is_named(tmp_path):
    cfg = load_config(changed(tmp_path))
    cfg.LAZY.FILE = str(tmp_path / "gone.py")
    with pytest.raises(InputError, match="gone.py' doesn't exist. If it was moved"):
        build_optimizer(cfg, None)


def test_a_yaml_config_does_not_take_parts_of_a_lazy_config():
    with pytest.raises(InputError, match="LAZY.FILE is empty"):
        build_optimizer(load_config("", ["SOLVER.OPTIMIZER", "LazyConfig"]), None)


def test_commands_of_yaml_configs_refuse_a_lazy_config():
    with pytest.raises(InputError, match="takes yaml configs only"):
        merged_config(lambda: None, SMALL)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train.log_period = 7", "train.log_period (metrics are written every 20 iterations)"),
        ("train.log_period = 0", "train.log_period (metrics are written every 20 iterations)"),
        ("train.checkpointer.max_to_keep = 0", "train.checkpointer.max_to_keep (all checkpoints are kept)"),
        ("train.ddp = dict(fp16_compression=True)", "train.ddp.fp16_compression (gradients are summed over processes"),
        (
            "dataloader.test.dataset.filter_empty = True",
            "dataloader.test.dataset.filter_empty (all images are evaluated",
        ),
        (
            "dataloader.test.num_workers = 3",
            "test.num_workers (dataloader.train.num_workers, 0, holds for both loaders)",
        ),
    ],
)
def test_settings_without_effect_are_logged_with_the_record(tmp_path, package_log, line, expected):
    package_log.set_level(logging.INFO, "balanced_lvis")
    cfg = load_config(changed(tmp_path, line))
    record_lazy(cfg, tmp_path / "lazy_config.yaml")
    assert "Settings of the LazyConfig without effect: " in package_log.text and expected in package_log.text
    assert line.rpartition(".")[2].partition(" ")[0] in (tmp_path / "lazy_config.yaml").read_text()


def test_settings_with_the_values_that_hold_are_not_logged(tmp_path, package_log):
    package_log.set_level(logging.INFO, "balanced_lvis")
    lines = (
        "train.log_period = 20",
        "train.checkpointer.max_to_keep = None",
        "train.ddp = dict(broadcast_buffers=False)",
    )
    record_lazy(load_config(changed(tmp_path, *lines)), tmp_path / "lazy_config.yaml")
    assert "without effect" not in package_log.text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("shuffle = False", "sampler.shuffle of the LazyConfig is False, which is not supported: images are always"),
        ("seed = 7", "sampler.seed of the LazyConfig is 7, which is not supported: set train.seed"),
        ("repeat_factors.sqrt = False", "sampler.repeat_factors.sqrt of the LazyConfig is False, which is not"),
        ("repeat_factors.repeat_tresh = 1", "remove it. Did you mean 'repeat_factors.repeat_thresh'?"),
        ("repeat_factors = [1.0]", "must be L(RepeatFactorTrainingSampler.repeat_factors_from_category_frequency)"),
    ],
)
def test_arguments_of_a_sampler_without_effect_are_refused(tmp_path, line, expected):
    with pytest.raises(InputError) as caught:
        load_config(changed(tmp_path, *SAMPLER, f"dataloader.train.sampler.{line}"))
    assert expected in str(caught.value)


def test_arguments_of_a_sampler_with_the_values_that_hold_are_accepted(tmp_path):
    lines = ["dataloader.train.sampler.shuffle = True", "dataloader.train.sampler.repeat_factors.sqrt = True"]
    cfg = load_config(changed(tmp_path, *SAMPLER, *lines, "dataloader.train.sampler.seed = None"))
    assert (cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD) == ("RepeatFactorTrainingSampler", 0.5)


def test_overrides_are_told_from_values_of_an_option():
    words = ["a.jpg", "b=c.jpg", "train.max_iter=4", "engine.MODEL.TF32=True"]
    assert split_overrides(words) == (words[:2], words[2:])


def test_pairs_that_commands_add_are_set(tmp_path):
    cfg = load_config(SMALL, ["MODEL.WEIGHTS", "a.pth", "train.max_iter=3", "DATASETS.TEST", "('some_val',)"])
    assert (cfg.MODEL.WEIGHTS, cfg.SOLVER.MAX_ITER, cfg.DATASETS.TEST) == ("a.pth", 3, ("some_val",))
    assert cfg.LAZY.OVERRIDES == ("train.max_iter=3",)
    with pytest.raises(InputError, match="MODEL.WEIGHTS is the last override; add its value"):
        load_config(SMALL, ["MODEL.WEIGHTS"])


@pytest.mark.parametrize("command", ["calibrate", "export_checkpoint"])
def test_processes_of_other_commands_run_the_file_too(tmp_path, monkeypatch, command):
    module, ran = importlib.import_module(f"balanced_lvis.commands.{command}"), []
    monkeypatch.setattr(module, "log_to_files", lambda *_: None)
    monkeypatch.setattr("balanced_lvis.engine.run.run_lazy", lambda cfg: ran.append(cfg.LAZY.FILE) or 1 / 0)
    options = SimpleNamespace(output=str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        module._work(load_config(SMALL), options, *[None] * (len(inspect.signature(module._work).parameters) - 2))
    assert ran == [str(SMALL)]


def test_a_calibration_asks_for_the_config_of_the_run(capsys):
    assert calibrate(["--config-file", str(SMALL), "MODEL.WEIGHTS", "a.pth"]) == 2
    assert "pass the config.yaml that its training run wrote to train.output_dir" in capsys.readouterr().err


PREDICTOR = "model.roi_heads.box_predictor"
TRAIN, TEST = "dataloader.train.mapper", "dataloader.test.mapper"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"{PREDICTOR}.use_sigmoid_ce = True", "use_sigmoid_ce of the LazyConfig is True, but the loss is that of m"),
        (f"{PREDICTOR}.use_sigmoid_ce = {PREDICTOR}.use_fed_loss = True", "use_fed_loss of the LazyConfig is True"),
        (f"{PREDICTOR}.num_classes = 7", "box_predictor.num_classes of the LazyConfig is 7, but model.roi_heads.num_"),
        (f"{PREDICTOR}.activation.num_classes = 7", "activation.num_classes of the LazyConfig is 7"),
        ("model.roi_heads.mask_head.num_classes = 5", "mask_head.num_classes of the LazyConfig is 5"),
        ("model.input_format = 'BGR'", "has model.input_format BGR and dataloader.train.mapper.image_format RGB and"),
        (f"{TRAIN}.image_format = 'BGR'", "train.mapper.image_format BGR and dataloader.test.mapper.image_format RGB"),
        (f"{TEST}.image_format = 'XYZ'", "dataloader.test.mapper.image_format of the LazyConfig is 'XYZ'; valid: BGR"),
        (f"{TRAIN}.use_instance_mask = False", "use_instance_mask of the LazyConfig is False, but the model has a m"),
        (f"{TRAIN}.is_train = False", "dataloader.train.mapper.is_train of the LazyConfig is False; it must be True"),
        (f"{TRAIN}.instance_mask_format = 'rle'", "instance_mask_format of the LazyConfig is 'rle'; valid: polygon,"),
        (f"{TEST}.augmentations[0].max_size = 'a'", "test.mapper.augmentations.0.max_size: INPUT.MAX_SIZE_TEST is 'a'"),
        ("model.pixel_std = [1, 0, 1]", "model.pixel_std of the LazyConfig is [1, 0, 1]; it must be three positive"),
        ("model.proposal_generator = None", "model.proposal_generator of the LazyConfig is missing"),
        ("model.roi_heads.mask_head.temperature = 'a'", "temperature: MODEL.ROI_MASK_HEAD.TEMPERATURE is 'a'"),
        ("lr_multiplier.warmup_length = 7", "lr_multiplier.warmup_length of the LazyConfig is 7"),
        ("del train['max_iter']", "The LazyConfig has no train.max_iter"),
        ("dataloader.train.dataset.names = 5", "dataloader.train.dataset.names of the LazyConfig is 5; it must be"),
        ("dataloader.train.sampler = 5", "dataloader.train.sampler of the LazyConfig is 5, which can't be resumed"),
    ],
)  # fmt: skip
def test_values_that_would_be_ignored_or_fail_in_training(tmp_path, line, expected):
    with pytest.raises(InputError) as caught:
        check_lazy_parts(load_config(changed(tmp_path, line)), evaluation_only=False)
    assert expected in str(caught.value)


@pytest.mark.parametrize("line", ["del train['max_iter']", "lr_multiplier.warmup_length = 7"])
def test_values_of_training_do_not_matter_in_evaluation(tmp_path, line):
    check_lazy_parts(load_config(changed(tmp_path, line)), evaluation_only=True)


def test_each_stage_of_a_cascade_has_the_number_of_classes(tmp_path):
    lines = (
        "from copy import deepcopy", "from balanced_lvis.modeling import LongTailCascadeROIHeads",
        "_heads = model.roi_heads", "_heads._target_ = LongTailCascadeROIHeads",
        "_heads.box_predictors = [deepcopy(_heads.box_predictor) for _ in range(3)]",
        "for _one in _heads.box_predictors: _one.num_classes = _one.activation.num_classes = 12",
    )  # fmt: skip
    with pytest.raises(InputError, match=r"box_predictors\[2\].num_classes of the LazyConfig is 7"):
        load_config(changed(tmp_path, *lines, "_heads.box_predictors[2].num_classes = 7"))


def test_a_threshold_is_that_of_the_sampler_or_of_engine(tmp_path):
    sampler = changed(tmp_path, *SAMPLER)
    with pytest.raises(InputError, match="REPEAT_THRESHOLD is 0.25, but .* is set too; .*repeat_thresh=0.25 instead"):
        load_config(sampler, ["engine.DATALOADER.REPEAT_THRESHOLD=0.25"])


def test_prediction_has_the_augmentations_of_evaluation(tmp_path):
    sizes = {}
    for name, nodes in (
        ("resize", "[L(T.Resize)(shape=(32, 48))]"),
        ("shortest", "[L(T.ResizeShortestEdge)(short_edge_length=16, max_size=99), L(T.RandomFlip)(prob=0.0)]"),
    ):
        (tmp_path / name).mkdir()
        lines = "import detectron2.data.transforms as T", "from detectron2.config import LazyCall as L"
        cfg = load_config(changed(tmp_path / name, *lines, f"dataloader.test.mapper.augmentations = {nodes}"))
        augmented = T.AugInput(np.zeros((80, 120, 3), np.uint8)[:, :, ::-1])
        _test_augmentations(cfg)(augmented)
        sizes[name] = augmented.image.shape[:2]
    assert sizes == {"resize": (32, 48), "shortest": (16, 24)}
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (16, 99)
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TEST = 32
    with pytest.raises(InputError, match=r"are \(32, 99\), but .* set dataloader.test.mapper.augmentations"):
        _test_augmentations(cfg)


def test_the_order_of_channels_is_that_of_the_mappers_if_the_model_does_not_state_it(tmp_path):
    assert load_config(changed(tmp_path, "del model['input_format']")).INPUT.FORMAT == "RGB"


@pytest.mark.parametrize(
    ("name", "option"),
    [("vitdet_b", "model.backbone.net.use_act_checkpoint=True"), ("swin_b", "model.backbone.bottom_up.use_checkpoint")],
)
def test_activation_checkpointing_of_a_backbone_without_residual_blocks_names_its_own_option(name, option):
    words = [*SMALL_WORDS, *SMALL_BACKBONES[name], "engine.MODEL.ACTIVATION_CHECKPOINTING=[backbone]"]
    with pytest.raises(InputError, match=f"has 'backbone', but .* remove it, and set {option}"):
        check_config(load_config(f"lazy/{name}_sigmoid", words), 1, evaluation_only=False)
