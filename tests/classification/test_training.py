"""The trainer: every method, the paper's example from end to end, and runs that are interrupted."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from balanced_lvis.classification import evaluate, train
from balanced_lvis.classification.checkpoints import check_same_run, plain_values, read_checkpoint
from balanced_lvis.classification.config import check_schedule
from balanced_lvis.classification.data import ImageSet
from balanced_lvis.classification.evaluation import predict
from balanced_lvis.classification.methods import METHODS
from balanced_lvis.classification.run import dataset_from_config, training_set
from balanced_lvis.classification.training import Trainer
from balanced_lvis.commands import train_classifier as command
from balanced_lvis.console.preemption import StopRequest
from balanced_lvis.utils.errors import DivergedError, InputError, Preempted
from tests import programs
from tests.classification.made import characters_config, characters_opts, write_folders
from tests.common import ROOT

FIRST_STAGES = [key for key, method in METHODS.items() if method.first_stage is None]
# With which a method does something on four classes in four iterations.
OPTIONS = {
    "ldam_drw": {"MODEL__ACTIVATION__LDAM__DRW_START": 2},
    "eql": {"MODEL__ACTIVATION__SOFTMAX_EQUALIZATION__THRESHOLD": 0.3},
}
AUGMENTED = {"INPUT__TRANSFORMS": ("crop", "flip"), "DATALOADER__SAMPLER_TRAIN": "class_balanced"}


def outcome(folder):
    """Everything that a run leaves, apart from its log."""
    content = read_checkpoint(folder / "model_final.pth")
    del content["config"]["OUTPUT_DIR"]
    files = [(folder / name).read_text() for name in ("results.json", "metrics.json", "class_prior.json")]
    return content, files


def assert_equal(found, expected):
    """Bit-identical models, optimizers and random states, and the same files."""
    assert found[1] == expected[1]
    flat = [json.dumps(_plain(content), sort_keys=True) for content in (found[0], expected[0])]
    assert flat[0] == flat[1]


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def folder_config(images, output, **options):
    """Of a run on the images that ``write_folders`` has written."""
    return characters_config(
        "softmax", "", output, DATASET__NAME="folder", DATASET__FOLDER__ROOT=images,
        DATASET__LONG_TAIL__IMBALANCE=0.0, **options,
    )  # fmt: skip


# ---------------------------------------------------------------------- methods


@pytest.mark.parametrize("method", FIRST_STAGES)
def test_a_method_trains_and_is_evaluated(method, cache, tmp_path):
    options = OPTIONS.get(method, {})
    cfg = characters_config(method, cache, tmp_path, **options)
    results = train(cfg)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert 0 <= results["accuracy"] <= 100 and sum(results["marginal"]) == pytest.approx(1)
    assert results["train_counts"] == [20, 9, 4, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock", "class_prior.json", "config.yaml", "last_checkpoint", "metrics.json", "model_final.pth",
        "results.json",
    ]  # fmt: skip
    weights = read_checkpoint(tmp_path / "model_final.pth")["model"]
    initial = Trainer(cfg, training_set(cfg, dataset_from_config(cfg)), torch.device("cpu")).model.state_dict()
    assert all(value.isfinite().all() for value in weights.values())
    assert not torch.equal(weights["network.stem.0.weight"], initial["network.stem.0.weight"])
    assert weights.get("activation.updates", torch.tensor(4)) == 4


@pytest.mark.parametrize("method", ["decoupled_balanced_softmax", "balms"])
def test_a_second_stage_trains_the_classifier_alone(method, cache, first_stage, tmp_path):
    cfg = characters_config(method, cache, tmp_path, MODEL__WEIGHTS=first_stage)
    train(cfg)
    before, after = (read_checkpoint(path) for path in (first_stage, tmp_path / "model_final.pth"))
    for name, value in after["model"].items():
        assert torch.equal(value, before["model"][name]) == name.startswith("network."), name
    if method == "balms":
        assert after["step"]["meta"]["weights"]["psi"].abs().min() > 0


def test_a_second_stage_starts_from_scratch_or_from_the_first_stage(cache, first_stage, tmp_path):
    def classifier(kind):
        cfg = characters_config(
            "decoupled_balanced_softmax", cache, tmp_path,
            MODEL__WEIGHTS=first_stage, MODEL__DECOUPLED__CLASSIFIER=kind,
        )  # fmt: skip
        images = training_set(cfg, dataset_from_config(cfg))
        return Trainer(cfg, images, torch.device("cpu")).model.classifier.weight

    expected = read_checkpoint(first_stage)["model"]["classifier.weight"]
    assert torch.equal(classifier("finetune"), expected)
    retrained = classifier("retrain")
    assert not torch.equal(retrained, expected) and torch.equal(retrained, classifier("retrain"))


def test_logit_adjustment_corrects_a_trained_softmax(cache, first_stage, tmp_path):
    def scores(method):
        cfg = characters_config(method, cache, tmp_path / method, MODEL__WEIGHTS=first_stage)
        return evaluate(cfg)

    plain, adjusted = scores("softmax"), scores("logit_adjustment")
    assert plain == json.loads((first_stage.parent / "results.json").read_text())
    assert plain["marginal"] != adjusted["marginal"]
    assert adjusted["marginal"][3] > plain["marginal"][3] and adjusted["marginal"][0] < plain["marginal"][0]
    assert (tmp_path / "logit_adjustment" / "evaluation" / "results.json").exists()


@pytest.mark.parametrize(("activation", "probability"), [("softmax", 0.9), ("balanced_softmax", 0.5)])
def test_male_cats_and_dogs(activation, probability, cache, tmp_path):
    """
    The example of the paper: 9 male and 9 female cats, 1 male and 1 female dog, and sex is all that an image shows.

    A softmax learns p(cat | male) = 0.9. Balanced Softmax, on the same images, gives 0.5.
    """
    male, female = np.full((8, 8, 3), 255, np.uint8), np.zeros((8, 8, 3), np.uint8)
    images = np.stack([male] * 9 + [female] * 9 + [male, female])
    labels = np.array([0] * 18 + [1] * 2)
    cfg = characters_config(
        activation, cache, tmp_path,
        SOLVER__MAX_ITER=150, SOLVER__IMS_PER_BATCH=20, SOLVER__WEIGHT_DECAY=0.0, SOLVER__BASE_LR=0.05,
    )  # fmt: skip
    trainer = Trainer(cfg, ImageSet(images, labels, ("cat", "dog")), torch.device("cpu"))
    trainer.train()
    test = ImageSet(np.stack([male, female]), np.array([0, 1]), ("cat", "dog"))
    scores = predict(trainer.model, test, 2, torch.device("cpu"))
    assert scores[:, 0] == pytest.approx([probability] * 2, abs=0.02)


# ---------------------------------------------------------------------- interruptions


@pytest.mark.parametrize("method", ["eql", "ldam_drw", "balms"])
@pytest.mark.parametrize("stopped_at", [1, 3])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    method, stopped_at, cache, first_stage, tmp_path, monkeypatch
):
    """Random losses, state of activations, and learned rates."""
    options = {**AUGMENTED, **OPTIONS.get(method, {}), "DATALOADER__NUM_WORKERS": 2 if method == "eql" else 0}
    if method == "balms":
        options["MODEL__WEIGHTS"] = first_stage

    def config(name):
        return characters_config(method, cache, tmp_path / name, SOLVER__LOG_PERIOD=1, **options)

    train(config("whole"))
    left = [stopped_at]

    def is_wanted(self):
        left[0] -= 1
        return left[0] == 0

    monkeypatch.setattr(StopRequest, "is_wanted_anywhere", is_wanted)
    with pytest.raises(Preempted):
        train(config("stopped"))
    assert read_checkpoint(tmp_path / "stopped" / "checkpoint.pth")["iteration"] == stopped_at
    torch.rand(3)  # another state of the global generator
    train(config("stopped"), resume=True)
    assert_equal(outcome(tmp_path / "stopped"), outcome(tmp_path / "whole"))
    assert not (tmp_path / "stopped" / "checkpoint.pth").exists()


def test_a_killed_run_resumes_from_its_last_checkpoint_and_equals_an_uninterrupted_one(cache, tmp_path):
    def start(name):
        options = {**AUGMENTED, **OPTIONS["eql"], "SOLVER__CHECKPOINT_PERIOD": 7, "SOLVER__LOG_PERIOD": 1}
        words = characters_opts(cache, tmp_path / name, SOLVER__MAX_ITER=150, **options)
        tool = ROOT / "tools" / "train_classifier.py"
        command = [tool, "--config-file", "classification/characters/eql", "--resume", *words]
        return programs.Program(*command, output=tmp_path / f"{name}.txt", cwd=tmp_path)

    with start("whole") as process:
        assert process.wait() == 0
    end = time.monotonic() + 60
    with start("killed"):
        while not (tmp_path / "killed" / "last_checkpoint").exists() and time.monotonic() < end:
            time.sleep(0.005)
    assert not (tmp_path / "killed" / "model_final.pth").exists()
    # Lines that a kill has cut off, or that are of iterations after the checkpoint, are written again.
    with open(tmp_path / "killed" / "metrics.json", "a") as file:
        file.write('{"iteration": 149, "total_loss": 1.0}\n{"itera')
    with start("killed") as process:
        output, _ = process.communicate()
    assert process.returncode == 0 and "Resumed from" in output, output
    assert_equal(outcome(tmp_path / "killed"), outcome(tmp_path / "whole"))


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")
def test_sigterm_saves_a_checkpoint_and_exits_with_status_75(cache, tmp_path):
    words = characters_opts(cache, tmp_path / "run", SOLVER__MAX_ITER=100_000, SOLVER__LOG_PERIOD=1)
    tool = ROOT / "tools" / "train_classifier.py"
    process = subprocess.Popen(
        [sys.executable, tool, "--config-file", "classification/characters/softmax", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path,
    )  # fmt: skip
    end = time.monotonic() + 60
    while not (tmp_path / "run" / "metrics.json").exists() and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == Preempted.exit_status, output.decode()
    assert b"--resume continues from iteration" in output and b"Traceback" not in output
    assert read_checkpoint(tmp_path / "run" / "checkpoint.pth")["iteration"] > 0


def test_a_finished_run_is_only_evaluated_again(cache, tmp_path):
    cfg = characters_config("softmax", cache, tmp_path)
    results = train(cfg)
    written = (tmp_path / "model_final.pth").stat().st_mtime_ns
    assert train(cfg, resume=True)["accuracy"] == results["accuracy"]
    assert (tmp_path / "model_final.pth").stat().st_mtime_ns == written


def test_without_resume_a_run_starts_again(cache, tmp_path):
    train(characters_config("softmax", cache, tmp_path, SOLVER__LOG_PERIOD=1))
    lines = (tmp_path / "metrics.json").read_text()
    train(characters_config("softmax", cache, tmp_path, SOLVER__LOG_PERIOD=1))
    assert (tmp_path / "metrics.json").read_text() == lines and lines.count("\n") == 4


# ---------------------------------------------------------------------- errors


def test_a_run_of_another_config_is_not_resumed(cache, tmp_path):
    train(characters_config("softmax", cache, tmp_path))
    with pytest.raises(InputError, match=r"--resume: SOLVER.BASE_LR is 0.2, but .* was trained with 0.1"):
        train(characters_config("softmax", cache, tmp_path, SOLVER__BASE_LR=0.2), resume=True)
    train(
        characters_config(
            "softmax", cache, tmp_path,
            SOLVER__CHECKPOINT_PERIOD=3, SOLVER__LOG_PERIOD=7, MODEL__ACTIVATION__FOCAL__GAMMA=2.0,
            MODEL__NETWORK__RESNET32__WIDTH=3, DATASET__CIFAR10__DOWNLOAD=True, DATASET__CHARACTERS__CACHE="",
        ),
        resume=True,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"--resume: MODEL.NETWORK.RESNET8.WIDTH is 5"):
        train(characters_config("softmax", cache, tmp_path, MODEL__NETWORK__RESNET8__WIDTH=5), resume=True)
    with pytest.raises(InputError, match=r"--resume: MODEL.CALIBRATION.NAME is 'logit_adjustment'"):
        train(characters_config("logit_adjustment", cache, tmp_path), resume=True)


def test_options_that_a_later_version_adds_to_other_methods_dont_matter(cache, tmp_path):
    cfg = characters_config("softmax", cache, tmp_path)
    saved = {**plain_values(cfg), "MODEL.ACTIVATION.FUTURE.OPTION": 1, "DATASET.FUTURE.SIZE": 2}
    del saved["MODEL.ACTIVATION.FOCAL.GAMMA"]
    check_same_run(saved, cfg, "x.pth")
    with pytest.raises(InputError, match="SEED is 0, but 'x.pth' was trained with 5"):
        check_same_run({**saved, "SEED": 5}, cfg, "x.pth")


@pytest.mark.parametrize("spelling", ["{}", "{}/../balms/../softmax", "moved"])
def test_a_second_stage_resumes_with_first_stages_that_are_spelled_differently_or_moved(
    spelling, cache, first_stage, tmp_path
):
    def config(folder, weights):
        return characters_config("decoupled_balanced_softmax", cache, folder, MODEL__WEIGHTS=weights)

    one = tmp_path / "one"
    (one / "balms").mkdir(parents=True)
    shutil.copytree(first_stage.parent, one / "softmax")
    train(config(one / "balms", one / "softmax" / "model_final.pth"))
    if spelling == "moved":
        moved = one.rename(tmp_path / "two")
        cfg = config(moved / "balms", moved / "softmax" / "model_final.pth")
    else:
        cfg = config(one / "balms", f"{spelling.format(one / 'softmax')}/model_final.pth")
    train(cfg, resume=True)
    with pytest.raises(InputError, match="MODEL.WEIGHTS is"):
        train(config(cfg.OUTPUT_DIR, first_stage), resume=True)


def test_a_run_is_not_resumed_or_evaluated_on_other_data(tmp_path):
    def config(**options):
        return folder_config(tmp_path / "images", tmp_path / "run", **options)

    weights = tmp_path / "run" / "model_final.pth"
    write_folders(tmp_path / "images", {"cat": 5, "dog": 3})
    train(config())
    train(config(), resume=True)
    evaluate(config(MODEL__WEIGHTS=weights))
    (tmp_path / "images" / "train" / "dog" / "0.png").unlink()
    counts = "training images per class differ, first that of class 1: 3 there, 2 here"
    with pytest.raises(InputError, match=counts):
        train(config(), resume=True)
    with pytest.raises(InputError, match=counts):
        evaluate(config(MODEL__WEIGHTS=weights))
    write_folders(tmp_path / "images", {"bird": 1})
    with pytest.raises(
        InputError, match=r"classes differ, first .* class 0: 'cat' there, 'bird' here \(2 and 3 classes"
    ):
        train(config(), resume=True)
    with pytest.raises(InputError, match="classes differ"):
        evaluate(config(MODEL__WEIGHTS=weights))


def test_a_run_is_the_same_with_and_without_decoded_images_in_memory(tmp_path, monkeypatch):
    write_folders(tmp_path / "images", {"cat": 5, "dog": 3})
    cfg = folder_config(tmp_path / "images", tmp_path / "run", **AUGMENTED)
    train(cfg)
    expected = outcome(tmp_path / "run")
    monkeypatch.setattr("balanced_lvis.classification.data.in_memory.MOST_BYTES", 0)
    train(cfg)
    assert_equal(outcome(tmp_path / "run"), expected)


def test_a_broken_image_is_the_same_line_in_memory_and_with_and_without_workers(tmp_path, monkeypatch):
    write_folders(tmp_path / "images", {"cat": 5, "dog": 3})
    (tmp_path / "images" / "train" / "dog" / "1.png").write_bytes(b"no image")
    messages = set()
    for most_bytes, workers in ((1 << 30, 0), (0, 0), (0, 2)):
        monkeypatch.setattr("balanced_lvis.classification.data.in_memory.MOST_BYTES", most_bytes)
        with pytest.raises(InputError) as caught:
            train(folder_config(tmp_path / "images", tmp_path / "run", DATALOADER__NUM_WORKERS=workers))
        messages.add(str(caught.value))
    (message,) = messages
    assert "dog/1.png is not an image" in message and "\n" not in message


def test_a_checkpoint_of_another_training_set_or_family_is_not_evaluated(cache, first_stage, tmp_path):
    def config(method="softmax", **options):
        return characters_config(method, cache, tmp_path, MODEL__WEIGHTS=first_stage, **options)

    with pytest.raises(InputError, match=r"LONG_TAIL.IMBALANCE is 5.0, but .* was trained with 10.0"):
        evaluate(config(DATASET__LONG_TAIL__IMBALANCE=5.0))
    with pytest.raises(InputError, match=r"ACTIVATION.NAME is 'sigmoid', but .* was trained with 'softmax', whose"):
        evaluate(config(MODEL__ACTIVATION__NAME="sigmoid"))
    evaluate(config("balanced_softmax"))  # of the same family


def test_a_missing_or_damaged_last_checkpoint_is_an_error_and_keeps_the_results(cache, tmp_path):
    cfg = characters_config("softmax", cache, tmp_path)
    train(cfg)
    (tmp_path / "model_final.pth").rename(tmp_path / "kept.pth")
    with pytest.raises(InputError, match="names the checkpoint 'model_final.pth', which doesn't exist; restore it"):
        train(cfg, resume=True)
    (tmp_path / "last_checkpoint").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"last_checkpoint' can't be read .*; train without --resume"):
        train(cfg, resume=True)
    assert (tmp_path / "results.json").exists() and (tmp_path / "metrics.json").exists()


def test_a_new_run_deletes_what_an_earlier_one_has_left(cache, tmp_path):
    train(characters_config("softmax", cache, tmp_path))
    evaluate(characters_config("softmax", cache, tmp_path, MODEL__WEIGHTS=tmp_path / "model_final.pth"))
    (tmp_path / "checkpoint.pth").write_bytes(b"left by a kill")
    with pytest.raises(DivergedError):
        train(characters_config("softmax", cache, tmp_path, SOLVER__BASE_LR=1e20, SOLVER__LOG_PERIOD=1))
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {
        ".lock", "config.yaml", "class_prior.json", "metrics.json", "evaluation/.lock", "evaluation/config.yaml",
    }  # fmt: skip


def test_a_run_that_starts_from_the_model_in_its_own_folder_keeps_it_until_its_end(cache, tmp_path):
    train(characters_config("softmax", cache, tmp_path))
    weights = tmp_path / "model_final.pth"
    with pytest.raises(DivergedError):
        train(
            characters_config(
                "softmax", cache, tmp_path, MODEL__WEIGHTS=weights, SOLVER__BASE_LR=1e20, SOLVER__LOG_PERIOD=1
            )
        )
    assert weights.exists()


def test_the_meta_sampler_reports_a_sampler_that_it_does_not_use(cache, first_stage, tmp_path, caplog):
    cfg = characters_config(
        "balms", cache, tmp_path, MODEL__WEIGHTS=first_stage, DATALOADER__SAMPLER_TRAIN="class_balanced"
    )
    Trainer(cfg, training_set(cfg, dataset_from_config(cfg)), torch.device("cpu"))
    assert "SAMPLER_TRAIN 'class_balanced' is not used" in caplog.text


def test_the_meta_sampler_needs_images_of_every_class(cache, first_stage, tmp_path):
    with pytest.raises(InputError, match="1 of 4 classes have no training images, such as 3; the Meta Sampler needs"):
        train(
            characters_config("balms", cache, tmp_path, MODEL__WEIGHTS=first_stage, DATASET__LONG_TAIL__IMBALANCE=30.0)
        )


def test_resume_and_eval_only_exclude_each_other(capsys):
    words = ["--config-file", "classification/characters/softmax", "--resume", "--eval-only"]
    assert command.main(words) == 2
    assert "leave out one of the two" in capsys.readouterr().err


def test_a_checkpoint_that_a_kill_has_left_beside_the_final_one_is_removed(cache, tmp_path):
    cfg = characters_config("softmax", cache, tmp_path)
    train(cfg)
    (tmp_path / "checkpoint.pth").write_bytes(b"left by a kill")
    train(cfg, resume=True)
    assert not (tmp_path / "checkpoint.pth").exists()


def test_a_loss_that_is_not_finite_ends_training(cache, tmp_path):
    with pytest.raises(DivergedError, match="Lower SOLVER.BASE_LR"):
        train(characters_config("softmax", cache, tmp_path, SOLVER__BASE_LR=1e20, SOLVER__LOG_PERIOD=1))
    assert not (tmp_path / "model_final.pth").exists()


def test_a_diverged_model_is_not_saved_between_two_logged_losses(cache, tmp_path):
    options = {"SOLVER__BASE_LR": 1e20, "SOLVER__LOG_PERIOD": 100, "SOLVER__CHECKPOINT_PERIOD": 3}
    with pytest.raises(DivergedError, match="at iteration 2"):
        train(characters_config("softmax", cache, tmp_path, **options))
    assert not (tmp_path / "last_checkpoint").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"SOLVER__MAX_ITER": 0}, "SOLVER.MAX_ITER is 0; it must be more than 0"),
        ({"SOLVER__WEIGHT_DECAY": -0.1}, "SOLVER.WEIGHT_DECAY is -0.1; it must be 0 or more"),
        ({"SOLVER__GAMMA": -0.1}, "SOLVER.GAMMA is -0.1; it must be 0 or more"),
        ({"SOLVER__BASE_LR": "1e400"}, "SOLVER.BASE_LR is inf"),
        ({"SOLVER__STEPS": (2,)}, "SOLVER.LR_SCHEDULE is 'cosine', which has no steps"),
        ({"DATASET__LONG_TAIL__SEED": 2**32}, "LONG_TAIL.SEED is 4294967296; it must be below"),
        ({"SOLVER__LR_SCHEDULE": "cosin"}, "Did you mean 'cosine'"),
        ({"MODEL__DEVICE": "gpu"}, "MODEL.DEVICE is 'gpu'; choose auto, cpu or cuda"),
        ({"MODEL__DECOUPLED__ENABLED": True}, "set MODEL.WEIGHTS"),
        ({"SOLVER__META__ENABLED": True}, "needs MODEL.DECOUPLED.ENABLED"),
        ({"MODEL__WEIGHTS": "none.pth"}, "Checkpoint 'none.pth' doesn't exist"),
        ({"DATASET__NAME": "mnist"}, "Unknown dataset 'mnist'"),
        ({"INPUT__PIXEL_STD": [1.0, 0.0, 1.0]}, "INPUT.PIXEL_STD"),
        ({"INPUT__PIXEL_MEAN": ["a", "b", "c"]}, "INPUT.PIXEL_MEAN is .*; all of it must be numbers, unlike 'a'"),
        ({"INPUT__TRANSFORMS": (3,)}, r"INPUT.TRANSFORMS is \(3,\); all of it must be names, unlike 3"),
        ({"SOLVER__LR_SCHEDULE": "steps", "SOLVER__STEPS": ("a",)}, "must be numbers of iterations, unlike 'a'"),
        ({"MODEL__DEVICE": "meta"}, "MODEL.DEVICE is 'meta'; choose auto, cpu or cuda"),
        ({"MODEL__DEVICE": "mps"}, "MODEL.DEVICE is 'mps'; choose auto, cpu or cuda"),
        ({"MODEL__DEVICE": "cuda:01"}, "MODEL.DEVICE is 'cuda:01'; choose auto, cpu or cuda"),
        ({"INPUT__TRANSFORMS": None}, "INPUT.TRANSFORMS is None; it must be a list of names"),
        ({"MODEL__NETWORK__RESNET8__WIDTH": 1_000_000}, "WIDTH of MODEL.NETWORK is 1000000; choose 1 to 1024"),
        (
            {"MODEL__ACTIVATION__NAME": "ldam", "MODEL__ACTIVATION__LDAM__DRW_START": 4},
            "LDAM.DRW_START is 4, but SOLVER.MAX_ITER is 4: .* such as to 3",
        ),
    ],
)
def test_invalid_values_are_errors_before_anything_is_trained(options, message, cache, tmp_path):
    with pytest.raises(InputError, match=message):
        train(characters_config("softmax", cache, tmp_path, **options))
    assert not (tmp_path / "metrics.json").exists()


def test_a_schedule_that_does_not_end_is_reported_once(cache, tmp_path, caplog):
    options = {"SOLVER__WARMUP_ITERS": 4, "SOLVER__LR_SCHEDULE": "steps", "SOLVER__STEPS": (2, 7)}
    for _ in range(2):
        check_schedule(characters_config("softmax", cache, tmp_path, **options))
    warmup, steps = (record.getMessage() for record in caplog.records)
    assert warmup.startswith("SOLVER.WARMUP_ITERS is 4, but training ends after SOLVER.MAX_ITER 4")
    assert steps.startswith("SOLVER.STEPS has a step at 7")


def test_checkpoints_of_other_models_and_other_files_are_errors(cache, first_stage, tmp_path):
    with pytest.raises(InputError, match="is of another model: network.* has shape"):
        evaluate(
            characters_config("softmax", cache, tmp_path, MODEL__WEIGHTS=first_stage, MODEL__NETWORK__RESNET8__WIDTH=8)
        )
    with pytest.raises(InputError, match="'classifier.bias' is in only one"):
        evaluate(characters_config("ldam", cache, tmp_path, MODEL__WEIGHTS=first_stage))
    other = tmp_path / "other.pth"
    for content in (b"", b"no checkpoint"):
        other.write_bytes(content)
        with pytest.raises(InputError, match="not a readable checkpoint"):
            read_checkpoint(other)
    torch.save({"weight": torch.zeros(1)}, other)
    with pytest.raises(InputError, match="not a checkpoint of image classification"):
        read_checkpoint(other)
    with pytest.raises(InputError, match="MODEL.WEIGHTS is empty"):
        evaluate(characters_config("softmax", cache, tmp_path))


def test_damaged_checkpoints_are_errors(cache, first_stage, tmp_path):
    def write(**parts):
        torch.save({**read_checkpoint(first_stage), **parts}, tmp_path / "model_final.pth")
        return characters_config("softmax", cache, tmp_path, MODEL__WEIGHTS=tmp_path / "model_final.pth")

    model = read_checkpoint(first_stage)["model"]
    for parts in ({"config": "text"}, {"model": {"weight": 1}}):
        with pytest.raises(InputError, match="not a checkpoint of image classification"):
            evaluate(write(**parts))
    with pytest.raises(InputError, match=r"model_final.pth' has values in classifier.bias that are not finite"):
        evaluate(write(model={**model, "classifier.bias": torch.full((4,), math.nan)}))
    with pytest.raises(InputError, match=r"The scores of .*model_final.pth' are not finite"):
        evaluate(write(model={**model, "network.stem.0.weight": torch.full((4, 3, 3, 3), 3e38)}))
    write(step={})
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    with pytest.raises(InputError, match=r"can't be resumed from \(KeyError: 'optimizer'\)"):
        train(characters_config("softmax", cache, tmp_path), resume=True)


def test_checkpoints_run_no_code(tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "hacked"),)

    torch.save({"model": Harmful(), "config": {}}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        read_checkpoint(tmp_path / "x.pth")
    assert not (tmp_path / "hacked").exists()
