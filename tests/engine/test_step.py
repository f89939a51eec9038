"""Training steps: bit-identical to Detectron2, accumulated, in half precision, skipped if not finite."""

import math
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.structures import Boxes, Instances, Keypoints
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage, get_event_storage

from balanced_lvis.commands.train import argument_parser
from balanced_lvis.data.training_prior import class_prior_from_config
from balanced_lvis.engine import diagnostics
from balanced_lvis.engine.diagnostics import replay, save_diagnostics
from balanced_lvis.engine.ema import WeightAverage
from balanced_lvis.engine.hooks import AverageHook
from balanced_lvis.engine.run import check, read_config
from balanced_lvis.engine.step import TrainingStep
from balanced_lvis.engine.trainer import Trainer
from balanced_lvis.utils.errors import DivergedError, InputError
from balanced_lvis.utils.random_state import current_states, set_states
from tests.common import CONFIGS, rendered_opts
from tests.engine.processes.test_ranks import on_ranks
from tests.engine.toy import NAN, SPIKE, Toy, batches, record, train, train_on_rank

CLIP = ["SOLVER.CLIP_GRADIENTS.ENABLED", "True"]


def toy_trainer(data, cls=TrainingStep, frozen_norm=False, **options):
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    trainer = cls(model, data, optimizer, **options)
    model.norm.train(not frozen_norm)
    return trainer


def assert_same_state(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def momenta(trainer):
    return [state["momentum_buffer"] for state in trainer.optimizer.state_dict()["state"].values()]


def test_a_run_is_detectron2s_own_to_the_bit(tiny_cfg, monkeypatch):
    tiny_cfg.merge_from_list(["SEED", 7, "TEST.EVAL_PERIOD", 0, "SOLVER.MAX_ITER", 3])
    found = {}
    for kind in ("ours", "stock"):
        if kind == "stock":
            monkeypatch.setattr("balanced_lvis.engine.trainer.build_step", lambda cfg, *parts: SimpleTrainer(*parts))
        seed_all_rng(0)
        trainer = Trainer(tiny_cfg)
        found[kind] = train(trainer.step, 3).latest(), trainer.model.state_dict()
    assert_same_state(found["ours"][1], found["stock"][1])
    of_time = {"data_time", "rank_data_time"}
    ours, stock = ({k: v for k, v in metrics.items() if k not in of_time} for metrics, _ in found.values())
    assert ours.keys() == stock.keys() and {"total_loss", "loss_cls", "loss_mask"} <= ours.keys()
    assert {k: v[0] for k, v in ours.items()} == pytest.approx({k: v[0] for k, v in stock.items()}, rel=1e-12)


def test_a_toy_is_trained_as_by_detectron2():
    ours, stock = toy_trainer(batches(*range(5))), toy_trainer(batches(*range(5)), SimpleTrainer)
    for trainer in (ours, stock):
        train(trainer, 5)
    assert_same_state(ours.model.state_dict(), stock.model.state_dict())
    assert ours.state_dict()["optimizer"].keys() == stock.state_dict()["optimizer"].keys()


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_batches_make_the_update_of_one(parts):
    """Losses that are means over images, and no batch statistics: the mathematics is the same, round-off is not."""
    whole = toy_trainer(batches(0, 1, 2, size=8), frozen_norm=True)
    pieces = [images[i : i + 8 // parts] for images in batches(0, 1, 2, size=8) for i in range(0, 8, 8 // parts)]
    split = toy_trainer(pieces, frozen_norm=True, accumulate=parts)
    latest = [train(trainer, 3).latest() for trainer in (whole, split)]
    for a, b in zip(whole.model.parameters(), split.model.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert latest[0]["total_loss"][0] == pytest.approx(latest[1]["total_loss"][0], rel=1e-6)


def test_accumulated_batches_of_a_real_model_have_the_gradient_of_one_where_losses_are_means_over_images(tiny_cfg):
    """Holds for the RPN; the heads normalize by the RoIs of each batch, and differ."""
    exact = ["MODEL.RESNETS.NORM", "FrozenBN", "MODEL.FPN.NORM", "", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 100_000]
    tiny_cfg.merge_from_list([*exact, "MODEL.RPN.POSITIVE_FRACTION", 1.0, "SOLVER.IMS_PER_BATCH", 4, "SEED", 3])
    found, gradients = [], []
    for parts in (1, 4):
        tiny_cfg.SOLVER.ACCUMULATE_BATCHES = parts
        seed_all_rng(0)
        trainer = Trainer(tiny_cfg)
        trainer.step._update = lambda norm: None
        with EventStorage():
            trainer.step.run_step()
            found.append({k: v[0] for k, v in get_event_storage().latest().items()})
        # Parameters that the losses of the heads don't reach: proposals have no gradient.
        rpn = trainer.model.proposal_generator.rpn_head.named_parameters()
        gradients.append({name: parameter.grad for name, parameter in rpn})
        state = trainer.data_loader.state_dict(1)
        assert state["batches"] * state["batch_size"] == 4
    for loss in ("loss_rpn_cls", "loss_rpn_loc"):
        assert found[0][loss] == pytest.approx(found[1][loss], rel=1e-5)
        assert found[0][loss] > 0
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("norm", [0.01, 100.0])
def test_the_whole_gradient_is_clipped_as_torch_clips_it(norm):
    ours = toy_trainer(batches(0), clip_norm=norm)
    theirs = toy_trainer(batches(0))

    def clip(*_):
        torch.nn.utils.clip_grad_norm_(theirs.model.parameters(), norm)

    theirs.optimizer.register_step_pre_hook(clip)
    for trainer in (ours, theirs):
        train(trainer, 1)
    for a, b in zip(ours.model.parameters(), theirs.model.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
    plain = toy_trainer(batches(0))
    train(plain, 1)
    same = [torch.equal(a, b) for a, b in zip(ours.model.parameters(), plain.model.parameters())]
    assert all(same) if norm > 1 else not any(same)


def with_scaler(trainer, scale):
    """A scaler on the CPU: float16 needs a GPU, its scaler doesn't."""
    trainer._scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return trainer


def test_a_scaled_loss_makes_the_update_of_the_unscaled_one_clipped_or_not():
    for norm in (None, 0.01):
        scaled = with_scaler(toy_trainer(batches(0, 1), clip_norm=norm), 2.0**10)
        plain = toy_trainer(batches(0, 1), clip_norm=norm)
        for trainer in (scaled, plain):
            train(trainer, 2)
        for a, b in zip(scaled.model.parameters(), plain.model.parameters()):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_a_scale_too_large_is_halved_and_no_reason_to_stop():
    trainer = with_scaler(toy_trainer(batches(*range(3)), max_skipped=0), 2.0**127)
    trainer.model.register_forward_hook(lambda module, inputs, losses: {k: 1e3 * v for k, v in losses.items()})
    before = {name: tensor.clone() for name, tensor in trainer.model.named_parameters()}
    storage = train(trainer, 1)
    assert_same_state(dict(trainer.model.named_parameters()), before)
    assert trainer._scaler.get_scale() == 2.0**126
    assert (trainer.overflows, trainer.skipped) == (1, 0)
    assert storage.latest()["grad_scaler_overflows"][0] == 1


def test_the_average_of_weights_counts_only_steps_that_update_them(tmp_path):
    step = with_scaler(toy_trainer([*batches(0, 1), [record(5, NAN), record(6)], *batches(2)]), 2.0**127)
    handle = step.model.register_forward_hook(lambda module, inputs, losses: {k: 1e3 * v for k, v in losses.items()})
    hook = AverageHook(WeightAverage(0.5), tmp_path)
    checkpointer = SimpleNamespace(model=step.model)
    hook.trainer = SimpleNamespace(step=step, iter=0, max_iter=99, checkpointer=checkpointer)
    hook.before_train()
    updates = []
    for name in ("overflow", "accepted", "skipped", "accepted"):
        train(step, 1)
        hook.after_step()
        updates.append((name, hook.average.updates))
        handle.remove()
        step._scaler = None
    assert (step.overflows, step.skipped) == (1, 1)
    assert updates == [("overflow", 0), ("accepted", 1), ("skipped", 1), ("accepted", 2)]


def test_gradients_that_are_not_finite_whatever_the_scale_are_skipped_and_counted(monkeypatch, tmp_path):
    trainer = with_scaler(toy_trainer(batches(*range(3)), max_skipped=1, folder=tmp_path), 1.0)
    monkeypatch.setattr(
        trainer, "losses", lambda batch: {"loss": (trainer.model.linear.weight.sum() * 0).abs().sqrt()}
    )  # fmt: skip
    with pytest.raises(DivergedError):
        train(trainer, 3)
    assert (trainer.overflows, trainer.skipped) == (0, 2)
    assert trainer._scaler.get_scale() == 1.0


@pytest.mark.parametrize("value", [NAN, float("inf"), SPIKE], ids=["nan", "inf", "infinite gradient or loss"])
def test_a_step_that_is_not_finite_leaves_no_trace(value, caplog):
    good = batches(0, 1, 2)
    bad = [record(98, value), record(99)]
    disturbed = toy_trainer([*good[:1], bad, *good[1:]])
    undisturbed = toy_trainer(good)
    train(disturbed, 4)
    train(undisturbed, 3)
    assert_same_state(disturbed.model.state_dict(), undisturbed.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(momenta(disturbed), momenta(undisturbed)))
    assert disturbed.state_dict()["skipped_steps"] == 1
    assert disturbed.skipped_in_row == 0
    assert "98.jpg" in caplog.text and "Iteration 1 is skipped" in caplog.text


class Recorded:
    """State of a step that records its calls."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda: self.calls.append(name)


def test_further_state_is_kept_with_an_update_and_discarded_with_a_skipped_or_overflown_one():
    state = Recorded()
    train(toy_trainer([*batches(0), [record(5, NAN), record(6)]], states=[state]), 2)
    assert state.calls == ["begin", "accept", "begin", "discard"]
    state.calls.clear()
    trainer = with_scaler(toy_trainer(batches(0), states=[state]), 2.0**127)
    trainer.model.register_forward_hook(lambda module, inputs, losses: {k: 1e3 * v for k, v in losses.items()})
    train(trainer, 1)
    assert trainer.overflows == 1 and state.calls == ["begin", "discard"]


def test_a_finite_loss_with_an_infinite_gradient_is_skipped(monkeypatch):
    trainer = toy_trainer(batches(0, 1))
    monkeypatch.setattr(
        trainer, "losses", lambda batch: {"loss": (trainer.model.linear.weight.sum() * 0).abs().sqrt()}
    )  # fmt: skip
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    train(trainer, 1)
    assert_same_state(trainer.model.state_dict(), before)
    assert trainer.skipped == 1


def test_metrics_of_a_skipped_step_are_not_written():
    storage = train(toy_trainer([*batches(0), [record(5, NAN), record(6)]]), 2)
    assert storage.latest()["total_loss"][1] == 0
    assert storage.latest()["skipped_steps"] == (1, 1)


def test_too_many_skipped_steps_in_a_row_end_the_run(tmp_path):
    data = [[record(i, NAN), record(50 + i)] for i in range(9)]
    trainer = toy_trainer(data, max_skipped=2, folder=tmp_path)
    with pytest.raises(DivergedError, match=r"more than 2 updates in a row.*iteration 2.*2\.jpg.*balanced-lvis replay"):
        train(trainer, 9)
    assert [path.name for path in tmp_path.iterdir()] == ["iteration_0000002_rank0.pth"]


def test_a_diverged_run_names_the_file_of_a_process_that_has_saved_one(tmp_path, monkeypatch):
    trainer = toy_trainer([[record(0), record(1)]], max_skipped=0, folder=tmp_path)
    monkeypatch.setattr(trainer, "losses", lambda batch: {"loss": (trainer.model.linear.weight.sum() * 0).abs().sqrt()})
    own = []

    def gathered(mine):
        own.append(mine)
        return [([], ["fine.jpg"]), mine]  # as if this process were rank 1

    monkeypatch.setattr("balanced_lvis.engine.step.comm.all_gather", gathered)
    with pytest.raises(DivergedError, match=r"balanced-lvis replay \S+_rank1\.pth"):
        train(trainer, 1)
    assert own


def test_a_diverged_run_can_be_replayed(rendered, tmp_path):
    """A learning rate that makes the weights diverge: every later step fails, and so does its replay."""
    output = tmp_path / "out"
    opts = [*rendered_opts(rendered, output), "SOLVER.BASE_LR", "1e30", "SOLVER.MAX_SKIPPED_STEPS", "1", "SEED", "1"]
    opts += ["SOLVER.WARMUP_FACTOR", "1.0", "INPUT.MASK_FORMAT", "polygon", "TEST.EVAL_PERIOD", "0"]
    config = CONFIGS / "quick_start" / "balanced_sigmoid.yaml"
    args = argument_parser().parse_args(["--config-file", str(config), *opts])
    cfg = read_config(args)
    check(cfg, args)
    output.mkdir(exist_ok=True)
    (output / "config.yaml").write_text(cfg.dump())
    trainer = Trainer(cfg)
    with pytest.raises(DivergedError):
        trainer.train()
    (saved,) = (output / "diagnostics").iterdir()
    found = replay(saved)
    assert found.iteration == 2
    assert math.isnan(found.recorded["proposals"]) and math.isnan(found.losses[0]["proposals"])
    assert found.module
    assert len(found.alone) == 2 and all(name.endswith(".jpg") for name, _ in found.alone)
    assert not found.weights  # the weights themselves are large, but finite
    # The datasets needn't be available: the class prior is in the folder of the run.
    class_prior_from_config(cfg).save(output / "class_prior.json")
    elsewhere = ["DATASETS.TRAIN", "('gone_train',)", "DATASETS.TEST", "()", "MODEL.ROI_HEADS.NUM_CLASSES", "0"]
    assert replay(saved, opts=elsewhere).module == found.module
    assert replay(saved, "quick_start/balanced_sigmoid", [*opts, *elsewhere]).module == found.module
    content = torch.load(saved, weights_only=True)
    for changed in (3, [[{"instances": {"fields": {"gt_boxes": ("code", 1)}}}]], [[None]]):
        torch.save({**content, "batches": changed}, saved)
        with pytest.raises(InputError, match="contains invalid batches"):
            replay(saved)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_step_is_replayed_in_its_precision(tmp_path, monkeypatch, dtype):
    model, (batch,) = Toy(), batches(0)
    model.norm = torch.nn.Identity()  # replays single images, too
    step = TrainingStep(model, [], torch.optim.SGD(model.parameters(), 0.1), autocast=dtype)
    expected = {name: float(loss.detach()) for name, loss in step.losses(batch).items()}
    save_diagnostics(tmp_path / "a.pth", model, [batch], current_states(), iteration=3, losses=expected)
    monkeypatch.setattr(diagnostics, "build_model", lambda cfg: model)
    opts = ["SOLVER.AMP.ENABLED", str(dtype is not None), "SOLVER.AMP.DTYPE", "bfloat16"]
    found = replay(tmp_path / "a.pth", CONFIGS / "quick_start" / "balanced_sigmoid.yaml", opts)
    assert found.losses == [expected]


def test_a_step_with_keypoints_and_fields_of_unknown_types_is_saved(tmp_path):
    points = Keypoints(torch.rand(1, 2, 3))
    fields = {"gt_boxes": Boxes(torch.rand(1, 4)), "gt_keypoints": points, "gt_texts": ["a"]}
    batch = [{"file_name": "a.jpg", "instances": Instances((4, 4), **fields), "texts": ["a"]}]
    save_diagnostics(tmp_path / "a.pth", Toy(), [batch], current_states(), iteration=3, losses={})
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    ((saved,),) = diagnostics._batches("a.pth", content["batches"])
    assert saved.keys() == {"file_name", "instances"}
    found = saved["instances"].get_fields()
    assert found.keys() == {"gt_boxes", "gt_keypoints"}
    assert torch.equal(found["gt_keypoints"].tensor, points.tensor)


def test_a_file_that_is_no_saved_step_is_refused(tmp_path):
    torch.save({"model": {}}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_text("nothing")
    for name, message in (("a.pth", "not a saved training step"), ("b.pth", "not a saved"), ("c.pth", "can't be read")):
        with pytest.raises(InputError, match=message):
            replay(tmp_path / name)


def test_random_states_are_taken_back(tmp_path):
    torch.save(current_states(), tmp_path / "states")
    first = torch.rand(3)
    set_states(torch.load(tmp_path / "states", weights_only=True))
    assert torch.equal(first, torch.rand(3))


def test_all_processes_skip_what_one_of_them_can_not_use(tmp_path):
    on_ranks(2, tmp_path, train_on_rank, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2))
    assert first.pop("skipped") == second.pop("skipped") == 1
    assert_same_state(first, second)
    # The mean over processes and batches equals one batch on one process.
    data = [a + b for a, b in zip(batches(*range(6)), batches(*range(10, 16)))]
    together = toy_trainer([data[0] + data[1], data[4] + data[5]], frozen_norm=True)
    together.optimizer = torch.optim.SGD(together.model.parameters(), 0.1)
    train(together, 2)
    for name, tensor in together.model.state_dict().items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-5, atol=1e-6)


def test_bfloat16_trains_on_the_cpu_with_losses_in_float32(tiny_cfg):
    tiny_cfg.merge_from_list(["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16"])
    trainer = Trainer(tiny_cfg)
    batch = next(iter(trainer.data_loader))
    with EventStorage():
        losses = trainer.step.losses(batch)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    storage = train(trainer.step, 2)
    assert storage.latest()["total_loss"][0] > 0
    assert not trainer.step.skipped


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float16_scales_its_losses_on_a_gpu(tiny_cfg):
    tiny_cfg.merge_from_list(["SOLVER.AMP.ENABLED", True, "MODEL.DEVICE", "cuda"])
    trainer = Trainer(tiny_cfg)
    train(trainer.step, 2)
    assert "grad_scaler" in trainer.step.state_dict()


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SOLVER.ACCUMULATE_BATCHES", "0"], "ACCUMULATE_BATCHES is 0"),
        (["SOLVER.ACCUMULATE_BATCHES", "3"], r"IMS_PER_BATCH is 2.*multiple of 3"),
        (["SOLVER.MAX_SKIPPED_STEPS", "-1"], "MAX_SKIPPED_STEPS is -1"),
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupCosine"], "valid: .* Did you mean 'WarmupCosineLR'"),
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.STEPS", "(3, 2)"], "iterations must increase"),
        (["SOLVER.BASE_LR_END", "1.0"], "from 0 to SOLVER.BASE_LR"),
        (
            ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "all"],
            "valid: value, norm, full",
        ),
        (["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.0"], "more than 0"),
        (["MODEL.EMA.DECAY", "1.0"], "DECAY is 1.0"),
        (["SOLVER.AMP.DTYPE", "half"], "DTYPE is 'half'; valid: float16, bfloat16"),
        (["SOLVER.AMP.ENABLED", "True"], "needs a GPU; use bfloat16"),
        (["SOLVER.META.ENABLED", "True", "SOLVER.ACCUMULATE_BATCHES", "2"], "learned from whole batches"),
    ],
)
def test_settings_of_a_step_are_checked_before_work_starts(rendered, tmp_path, opts, message):
    config = CONFIGS / "quick_start" / "balanced_sigmoid.yaml"
    args = argument_parser().parse_args(["--config-file", str(config), *rendered_opts(rendered, tmp_path), *opts])
    with pytest.raises(InputError, match=message):
        check(read_config(args), args)


def test_the_number_of_skipped_steps_is_kept_in_checkpoints():
    trainer = toy_trainer([*batches(0), [record(5, NAN), record(6)]])
    train(trainer, 2)
    other = toy_trainer(batches(0))
    other.load_state_dict(trainer.state_dict())
    assert other.skipped == 1
