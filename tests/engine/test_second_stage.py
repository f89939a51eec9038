"""Second stages as complete runs: which weights change, which don't, and which checkpoints are refused."""

import json
import logging
import shutil

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from balanced_lvis.commands.train import argument_parser
from balanced_lvis.config import load_config
from balanced_lvis.engine.checkpoints.identity import Identity
from balanced_lvis.engine.checkpoints.weights import load_first_stage, load_for_evaluation
from balanced_lvis.engine.optimizer import build_optimizer
from balanced_lvis.engine.run import check, read_config, run
from balanced_lvis.engine.trainer import Trainer
from balanced_lvis.modeling.decoupled import CLASSIFIER, scale_decay
from balanced_lvis.utils.errors import InputError
from tests import programs
from tests.common import CONFIGS, ROOT, rendered_opts

SECOND_STAGES = {
    "crt": {f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias"},
    "decoupled_balanced_sigmoid": {f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias"},
    "decoupled_balanced_softmax": {f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias"},
    "balms": {f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias"},
    "lws": {f"{CLASSIFIER}.scale"},
}


EVALUATED = {"DATASETS__TEST": "('rendered_val',)"}


def train(method, root, output, *flags, **overrides):
    """
    A training run in this process, without an evaluation, which takes longer than the training, unless ``EVALUATED``.

    A double underscore in ``overrides`` stands for a dot.
    """
    opts = [*rendered_opts(root, output), "DATASETS.TEST", "()"]
    for key, value in overrides.items():
        opts += [key.replace("__", "."), str(value)]
    arguments = ["--config-file", CONFIGS / "rendered" / f"{method}.yaml", *flags, *opts]
    args = argument_parser().parse_args([*map(str, arguments)])
    cfg = read_config(args)
    check(cfg, args)
    run(cfg, args)
    return output


def tensors(output, name="model_final"):
    return torch.load(output / f"{name}.pth", weights_only=True)["model"]


@pytest.fixture(scope="module")
def stage_1(rendered, tmp_path_factory):
    """First stages by activation family."""
    output = tmp_path_factory.mktemp("stage_1")
    # 12 classes on 24 images: enough for weights that differ from the initial ones.
    methods = {"sigmoid": "rfs", "softmax": "rfs_softmax"}
    return {family: train(method, rendered, output / method) for family, method in methods.items()}


def weights_for(method, stage_1):
    return stage_1["softmax" if method.endswith("softmax") else "sigmoid"] / "model_final.pth"


@pytest.mark.parametrize("method", list(SECOND_STAGES))
def test_a_second_stage_changes_the_classifier_and_no_other_bit(method, rendered, stage_1, tmp_path):
    path = weights_for(method, stage_1)
    after = tensors(train(method, rendered, tmp_path, MODEL__WEIGHTS=path, **EVALUATED))
    before = torch.load(path, weights_only=True)["model"]
    changed = {key for key in after if key not in before or not torch.equal(after[key], before[key])}
    assert changed == SECOND_STAGES[method]
    assert before.keys() <= after.keys()
    assert set(json.loads((tmp_path / "results.json").read_text())) == {"bbox", "segm"}


@pytest.fixture
def frozen_norms(rendered, tmp_path):
    """A config with ``FrozenBatchNorm2d``, a state dict with random statistics, and the path of its checkpoint."""
    opts = [*rendered_opts(rendered, tmp_path), "MODEL.RESNETS.NORM", "FrozenBN"]
    cfg = load_config(CONFIGS / "rendered" / "rfs.yaml", opts)
    state = build_model(cfg).state_dict()
    for key, tensor in state.items():
        if key.startswith("backbone.bottom_up") and ".norm." in key:
            tensor.uniform_(0.5, 2)
    assert any(key.endswith("running_var") for key in state)
    torch.save({"model": state}, tmp_path / "model.pth")
    return cfg, state, str(tmp_path / "model.pth")


def differing(model, state):
    found = model.state_dict()
    return {key for key in state if not torch.equal(found[key], state[key])}


# ``load_state_dict`` resets frozen statistics that are not in the state dict that it is given.
@pytest.mark.parametrize("classifier", ["retrain", "finetune", "rescale"])
def test_frozen_batch_statistics_are_those_of_the_first_stage(classifier, frozen_norms):
    cfg, state, path = frozen_norms
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "DecoupledRCNN", "MODEL.DECOUPLED.CLASSIFIER", classifier])
    second = build_model(cfg)
    load_first_stage(second, path, Identity.from_config(cfg))
    assert differing(second, state) <= {f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias"}


def test_frozen_batch_statistics_are_evaluated_as_they_are_in_the_checkpoint(frozen_norms):
    cfg, state, path = frozen_norms
    model = build_model(cfg)
    load_for_evaluation(model, path)
    assert not differing(model, state)


def test_the_optimizer_holds_the_classifier_alone(rendered, stage_1, tmp_path):
    train("crt", rendered, tmp_path, MODEL__WEIGHTS=weights_for("crt", stage_1))
    trainer = torch.load(tmp_path / "model_final.pth", weights_only=True)["trainer"]["_trainer"]
    assert len(trainer["optimizer"]["state"]) == 2


def test_crt_starts_anew_and_lws_from_the_first_stage(rendered, stage_1, tmp_path):
    key = f"{CLASSIFIER}.weight"
    before = torch.load(weights_for("crt", stage_1), weights_only=True)["model"][key]
    frozen = {"MODEL__WEIGHTS": weights_for("crt", stage_1), "SOLVER__BASE_LR": 1e-30, "SOLVER__WEIGHT_DECAY": 0.0}
    assert not torch.equal(tensors(train("crt", rendered, tmp_path / "crt", **frozen))[key], before)
    assert torch.equal(tensors(train("balms", rendered, tmp_path / "balms", **frozen))[key], before)
    lws = tensors(train("lws", rendered, tmp_path / "lws", **frozen))
    assert torch.equal(lws[key], before)
    assert torch.equal(lws[f"{CLASSIFIER}.scale"], torch.ones(13))


@pytest.mark.parametrize(
    ("opts", "decay"),
    [
        ([], 0.01),  # SOLVER.WEIGHT_DECAY of the config
        (["SOLVER.WEIGHT_DECAY", "0.0001"], 0.0001),
        (["MODEL.DECOUPLED.SCALE_WEIGHT_DECAY", "0.0005"], 0.0005),
        (["MODEL.DECOUPLED.SCALE_WEIGHT_DECAY", "0"], 0),
    ],
)
def test_the_scales_of_lws_are_decayed_as_configured(opts, decay, rendered, tmp_path):
    cfg = load_config(CONFIGS / "rendered" / "lws.yaml", [*rendered_opts(rendered, tmp_path), *opts])
    model = build_model(cfg)
    groups = build_optimizer(cfg, model).param_groups
    assert [group["weight_decay"] for group in groups] == [decay]
    assert groups[0]["params"][0] is model.classifier.scale


@pytest.mark.parametrize("depth", [50, 101])
def test_lvis_decays_scales_as_the_released_detector_does(depth):
    assert scale_decay(load_config(CONFIGS / f"r{depth}_lws.yaml")) == 0.0001


@pytest.mark.parametrize("decay", ["-0.1", "much", "True"])
def test_a_decay_of_scales_that_is_none_is_refused(decay, rendered, tmp_path):
    message = refused("lws", rendered, tmp_path, MODEL__DECOUPLED__SCALE_WEIGHT_DECAY=decay, MODEL__WEIGHTS="x.pth")
    assert "SCALE_WEIGHT_DECAY is" in message and "0 or more, or None for SOLVER.WEIGHT_DECAY" in message


@pytest.mark.parametrize("method", ["crt", "lws", "balms"])
def test_resuming_takes_the_checkpoint_as_it_is(method, rendered, stage_1, tmp_path):
    output = train(method, rendered, tmp_path, MODEL__WEIGHTS=weights_for(method, stage_1))
    cfg = load_config(output / "config.yaml")
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    found, saved = trainer.model.state_dict(), tensors(output)
    assert all(torch.equal(found[key], saved[key]) for key in saved)
    assert trainer.start_iter == 4
    if method == "balms":
        meta = torch.load(output / "model_final.pth", weights_only=True)["trainer"]["_trainer"]["meta"]
        assert torch.equal(trainer.step.reweighter.weights.psi, meta["weights"]["psi"])


@pytest.mark.parametrize("method", ["crt", "lws", "balms"])
def test_a_resumed_run_is_an_undisturbed_one_to_the_bit(method, rendered, stage_1, tmp_path):
    options = {"MODEL__WEIGHTS": weights_for(method, stage_1), "SOLVER__MAX_ITER": 4, "SOLVER__CHECKPOINT_PERIOD": 2}
    straight = train(method, rendered, tmp_path / "straight", **options)
    (tmp_path / "resumed").mkdir()
    shutil.copy(straight / "model_0000001.pth", tmp_path / "resumed")
    (tmp_path / "resumed" / "last_checkpoint").write_text("model_0000001.pth")
    resumed = train(method, rendered, tmp_path / "resumed", "--resume", **options)
    states = [torch.load(p / "model_final.pth", weights_only=True) for p in (straight, resumed)]
    assert states[0]["trainer"]["data"] == states[1]["trainer"]["data"]
    assert all(torch.equal(states[0]["model"][key], states[1]["model"][key]) for key in states[0]["model"])
    trainer = states[1]["trainer"]
    images = trainer["data"]["train"] if method == "balms" else trainer["data"]
    assert images["batches"] * images["batch_size"] == 8
    if method == "balms":
        meta = [state["trainer"]["_trainer"]["meta"] for state in states]
        images = trainer["data"]["meta"]
        assert images["batches"] * images["batch_size"] == 8
        assert meta[1]["optimizer"]["state"][0]["step"] == 4
        assert torch.equal(meta[0]["weights"]["psi"], meta[1]["weights"]["psi"])
        assert not torch.equal(meta[1]["weights"]["psi"], torch.zeros(12))


def test_balms_with_fixed_equal_weights_is_decoupled_balanced_sigmoid(rendered, stage_1, tmp_path):
    options = {"MODEL__WEIGHTS": weights_for("balms", stage_1), "SOLVER__MAX_ITER": 5}
    plain = tensors(train("decoupled_balanced_sigmoid", rendered, tmp_path / "plain", **options))
    fixed = tensors(train("balms", rendered, tmp_path / "fixed", SOLVER__META__LR=0.0, **options))
    learned = tensors(train("balms", rendered, tmp_path / "learned", SOLVER__META__LR=0.5, **options))
    assert all(torch.equal(plain[key], fixed[key]) for key in plain)
    assert not torch.equal(plain[f"{CLASSIFIER}.weight"], learned[f"{CLASSIFIER}.weight"])


def test_balms_logs_and_saves_the_class_weights(rendered, stage_1, tmp_path):
    train("balms", rendered, tmp_path, MODEL__WEIGHTS=weights_for("balms", stage_1))
    rows = json.loads((tmp_path / "class_weights.json").read_text())
    assert len(rows) == 12
    assert set(rows[0]) == {"name", "image_count", "group", "weight"}
    psi = torch.load(tmp_path / "model_final.pth", weights_only=True)["trainer"]["_trainer"]["meta"]["weights"]["psi"]
    assert [row["weight"] for row in rows] == pytest.approx(psi.sigmoid().tolist())
    metrics = json.loads((tmp_path / "metrics.json").read_text().splitlines()[0])
    groups = {row["group"] for row in rows}
    assert {"meta/loss", *(f"meta/weight_{group}" for group in groups)} <= set(metrics)


# ------------------------------------------------------------------ several processes


@pytest.mark.parametrize("method", ["lws", "balms"])
def test_a_second_stage_trains_on_two_processes(method, rendered, stage_1, tmp_path):
    opts = [*rendered_opts(rendered, tmp_path), "MODEL.WEIGHTS", weights_for(method, stage_1)]
    flags = ["--config-file", CONFIGS / "rendered" / f"{method}.yaml", "--num-gpus", "2", "--dist-url", "auto"]
    done = programs.run(ROOT / "tools" / "train_net.py", *flags, *opts)
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = torch.load(weights_for(method, stage_1), weights_only=True)["model"], tensors(tmp_path)
    assert {k for k in after if k not in before or not torch.equal(after[k], before[k])} == SECOND_STAGES[method]


# ------------------------------------------------------------------ bad input


def refused(method, root, output, **overrides) -> str:
    with pytest.raises(InputError) as caught:
        train(method, root, output, **overrides)
    return str(caught.value)


@pytest.mark.parametrize("method", list(SECOND_STAGES))
def test_a_second_stage_without_weights_is_refused(method, rendered, tmp_path):
    message = refused(method, rendered, tmp_path, MODEL__WEIGHTS="''")
    assert "MODEL.WEIGHTS path/to/model_final.pth of the first stage" in message
    message = refused(method, rendered, tmp_path, MODEL__WEIGHTS="nowhere/model_final.pth")
    assert "Train the first stage first" in message


def altered(path, tmp_path, change):
    """A copy of a checkpoint whose content ``change`` has edited in place."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "altered.pth")
    return tmp_path / "altered.pth"


@pytest.mark.parametrize("method", ["crt", "lws"])
def test_incomplete_weights_list_the_tensors(method, rendered, stage_1, tmp_path):
    def drop(content):
        del content["model"]["backbone.fpn_lateral2.weight"]
        del content["model"]["roi_heads.box_head.fc1.bias"]
        del content["model"]["backbone.bottom_up.stem.conv1.norm.running_var"]

    path = altered(weights_for(method, stage_1), tmp_path, drop)
    message = refused(method, rendered, tmp_path / "out", MODEL__WEIGHTS=path)
    assert "the second stage would freeze random values of" in message
    for key in ("backbone.fpn_lateral2.weight", "roi_heads.box_head.fc1.bias", "stem.conv1.norm.running_var"):
        assert f"{key}: missing in the file" in message
    assert CLASSIFIER not in message


@pytest.mark.parametrize("method", ["crt", "lws", "balms"])
def test_weights_of_another_vocabulary_are_refused_whatever_is_kept_of_them(method, rendered, stage_1, tmp_path):
    def widen(content):
        del content["balanced_lvis"]
        for name in ("weight", "bias"):
            key = f"{CLASSIFIER}.{name}"
            content["model"][key] = torch.cat([content["model"][key]] * 2)

    path = altered(weights_for(method, stage_1), tmp_path, widen)
    message = refused(method, rendered, tmp_path / "out", MODEL__WEIGHTS=path)
    assert f"{CLASSIFIER}.weight: (26, 256) in the file, (13, 256) in the model" in message


def test_weights_for_classes_of_other_names_are_refused(rendered, stage_1, tmp_path):
    def rename(content):
        content["balanced_lvis"]["class_names"][3] = "gramophone"

    path = altered(weights_for("crt", stage_1), tmp_path, rename)
    message = refused("crt", rendered, tmp_path / "out", MODEL__WEIGHTS=path)
    assert "was trained for other classes: it has 'gramophone' as class 3" in message


def test_a_classifier_of_a_second_stage_is_not_rescaled_again(rendered, stage_1, tmp_path):
    scaled = train("lws", rendered, tmp_path / "lws", MODEL__WEIGHTS=weights_for("lws", stage_1)) / "model_final.pth"
    for method in ("lws", "decoupled_balanced_sigmoid"):
        message = refused(method, rendered, tmp_path / method, MODEL__WEIGHTS=scaled)
        assert f"{CLASSIFIER}.scale: in the file, not used by the model" in message
    train("crt", rendered, tmp_path / "crt", MODEL__WEIGHTS=scaled)  # doesn't use the classifier


def test_crt_starts_anew_whatever_the_file_calls_the_classifier(rendered, stage_1, tmp_path):
    """Like a checkpoint saved from within DistributedDataParallel by other code."""

    def prefix(content):
        content["model"] = {f"module.{key}": value for key, value in content["model"].items()}

    path = altered(weights_for("crt", stage_1), tmp_path, prefix)
    plain, prefixed = (
        tensors(train("crt", rendered, tmp_path / name, MODEL__WEIGHTS=weights))
        for name, weights in (("plain", weights_for("crt", stage_1)), ("prefixed", path))
    )
    assert all(torch.equal(plain[key], prefixed[key]) for key in plain)


@pytest.mark.parametrize(
    ("before", "after"), [("rfs", "crt"), ("crt", "lws"), ("decoupled_balanced_sigmoid", "balms"), ("balms", "crt")]
)
def test_resuming_another_stage_is_refused(before, after, rendered, stage_1, tmp_path):
    weights = {"MODEL__WEIGHTS": weights_for("crt", stage_1)}
    train(before, rendered, tmp_path, **weights)
    with pytest.raises(InputError, match="--resume: the last checkpoint in OUTPUT_DIR is of"):
        train(after, rendered, tmp_path, "--resume", **weights)


def test_balms_trains_in_mixed_precision(rendered, stage_1, tmp_path):
    weights = weights_for("balms", stage_1)
    after = tensors(train("balms", rendered, tmp_path, MODEL__WEIGHTS=weights, SOLVER__AMP__ENABLED="True"))
    assert after[f"{CLASSIFIER}.weight"].dtype == torch.float32
    assert all(torch.isfinite(value).all() for value in after.values())


def test_lws_needs_a_classifier(rendered, stage_1, tmp_path):
    def behead(content):
        del content["balanced_lvis"]
        del content["model"][f"{CLASSIFIER}.weight"], content["model"][f"{CLASSIFIER}.bias"]

    path = altered(weights_for("lws", stage_1), tmp_path, behead)
    message = refused("lws", rendered, tmp_path / "out", MODEL__WEIGHTS=path)
    assert f"{CLASSIFIER}.weight: missing in the file" in message
    train("crt", rendered, tmp_path / "crt", MODEL__WEIGHTS=path)  # reinitializes the classifier


def test_a_classifier_of_the_other_family_is_warned_of_where_it_is_kept(rendered, stage_1, tmp_path, package_log):
    path = weights_for("decoupled_balanced_softmax", stage_1)
    with package_log.at_level(logging.WARNING, "balanced_lvis"):
        train("crt", rendered, tmp_path / "crt", MODEL__WEIGHTS=path)
        assert "calibrated" not in package_log.text
        train("lws", rendered, tmp_path / "lws", MODEL__WEIGHTS=path)
    assert "trained with a softmax activation and is fine-tuned with a sigmoid one" in package_log.text


def test_evaluating_a_checkpoint_as_another_model_is_refused(rendered, stage_1, tmp_path):
    opts = rendered_opts(rendered, tmp_path)
    cfg = load_config(CONFIGS / "rendered" / "rfs.yaml", opts)
    with pytest.raises(InputError, match="trained with a softmax activation"):
        load_for_evaluation(build_model(cfg), str(weights_for("softmax", stage_1)), Identity.from_config(cfg))
    scaled = train("lws", rendered, tmp_path / "lws", MODEL__WEIGHTS=weights_for("lws", stage_1))
    with pytest.raises(InputError, match=r"cls_score\.scale: in the file, not used"):
        load_for_evaluation(build_model(cfg), str(scaled / "model_final.pth"))
    # Detectron2 checkpoints have no identity; their tensors decide.
    model = build_model(cfg)
    DetectionCheckpointer(model, str(tmp_path)).save("stock")
    load_for_evaluation(model, str(tmp_path / "stock.pth"), Identity.from_config(cfg))


def test_meta_weights_outside_the_second_stage_are_refused(rendered, tmp_path):
    message = refused("rfs", rendered, tmp_path, SOLVER__META__ENABLED="True")
    assert "class weights are learned in the second stage" in message
    assert "SOLVER.META" in refused("balms", rendered, tmp_path, SOLVER__META__LR=-1.0, MODEL__WEIGHTS="x.pth")
