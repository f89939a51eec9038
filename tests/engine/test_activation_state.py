"""State of activations: updated once per accepted update, equal in all processes, saved, and left out of averages."""

import logging

import pytest
import torch
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from balanced_lvis.activations import StateUpdates, build_activation, state_keys
from balanced_lvis.engine.ema import WeightAverage
from balanced_lvis.engine.step import TrainingStep
from balanced_lvis.modeling.decoupled import ACTIVATION
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from tests.activations import toys
from tests.engine.processes.test_ranks import on_ranks
from tests.engine.resuming import assert_same_weights, continue_from
from tests.engine.test_second_stage import tensors, train
from tests.engine.toy import NAN
from tests.engine.toy import train as train_toy

K = 4
PRIOR = ClassPrior(tuple("abcd"), [40, 20, 5, 1], 66)

pytestmark = pytest.mark.usefixtures("toy_activations")


class Classifier(torch.nn.Module):
    """A linear classifier of features whose loss is that of the toy with state."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3, K + 1)
        self.activation = toys.Counting(K)

    def forward(self, batch):
        logits = self.linear(torch.stack([record["x"] for record in batch]))
        gt_classes = torch.tensor([record["gt"] for record in batch])
        self.activation.record(logits, gt_classes)
        return {"loss": self.activation.loss(logits, gt_classes)}


def images(count, first=0):
    generator = torch.Generator().manual_seed(7)
    data = [
        {"x": torch.randn(3, generator=generator), "gt": i % (K + 1), "file_name": f"{i}.jpg"}
        for i in range(first + count)
    ]
    return data[first:]


def in_batches(data, size):
    return [data[i : i + size] for i in range(0, len(data), size)]


def step_of(model, data, cls=TrainingStep, **options):
    bare = model.module if isinstance(model, DistributedDataParallel) else model
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return cls(model, data, optimizer, states=[StateUpdates(bare)], **options)


def state_of(model):
    return {key: model.state_dict()[key].clone() for key in state_keys(model)}


def seen(data):
    return [sum(record["gt"] == j for record in data) for j in range(K)]


def test_state_counts_what_every_update_saw():
    model, data = Classifier(), images(12)
    train_toy(step_of(model, in_batches(data, 4)), 3)
    assert model.activation.seen.tolist() == seen(data)


def test_all_batches_of_an_accumulated_update_are_observed_together(monkeypatch):
    calls = []
    monkeypatch.setattr(toys.Counting, "observe", lambda self, logits, gt: calls.append((logits.shape, gt.tolist())))
    data = images(12)
    train_toy(step_of(Classifier(), in_batches(data, 2), accumulate=3), 2)
    assert calls == [((6, K + 1), [record["gt"] for record in data[i : i + 6]]) for i in (0, 6)]


def test_the_loss_of_an_update_reads_the_state_before_it():
    model, data = Classifier(), images(8)
    expected = Classifier()
    step = step_of(model, in_batches(data, 4))
    train_toy(step, 1)
    losses = [expected(data[:4])["loss"]]
    losses[0].backward()
    torch.testing.assert_close(model.linear.weight.grad, expected.linear.weight.grad)
    assert expected.activation.seen.tolist() == [0] * K, "a loss changes nothing"


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_skipped_update_leaves_the_state_as_it_was(accumulate):
    model, data = Classifier(), images(12)
    data[6] = {**data[6], "x": torch.full((3,), NAN)}
    size = 4 // accumulate
    step = step_of(model, in_batches(data, size), accumulate=accumulate)
    train_toy(step, 3)
    assert step.skipped == 1
    assert model.activation.seen.tolist() == seen(data[:4] + data[8:])


def test_an_overflow_of_float16_leaves_the_state_as_it_was(monkeypatch):
    model, data = Classifier(), images(8)
    step = step_of(model, in_batches(data, 4))
    train_toy(step, 1)
    before = state_of(model)
    monkeypatch.setattr(step, "_gradient_norm", lambda: torch.tensor(NAN))
    monkeypatch.setattr(step, "_is_overflow", lambda numbers: True)
    train_toy(step, 1)
    assert step.overflows == 1
    assert all(torch.equal(before[key], value) for key, value in state_of(model).items())


def train_on_ranks(folder, size):
    data = in_batches(images(24), 8)
    mine = [batch[comm.get_rank() * 8 // size : (comm.get_rank() + 1) * 8 // size] for batch in data]
    if size == 4 and comm.get_rank() == 1:
        mine.insert(1, [{"x": torch.full((3,), NAN), "gt": 0, "file_name": "bad.jpg"}] * 2)
    elif size == 4:
        mine.insert(1, mine[0])
    model = Classifier()
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if size > 1 else model
    train_toy(step_of(wrapped, mine), len(mine))
    torch.save(state_of(model), folder / f"{size}_{comm.get_rank()}.pth")


def test_any_number_of_processes_has_the_state_of_one(tmp_path):
    """With 4, one process has a batch that all must skip."""
    for size in (1, 2, 4):
        on_ranks(size, tmp_path, train_on_ranks, tmp_path, size)
    expected = torch.load(tmp_path / "1_0.pth", weights_only=True)
    for size in (2, 4):
        for rank in range(size):
            found = torch.load(tmp_path / f"{size}_{rank}.pth", weights_only=True)
            assert torch.equal(found["activation.seen"], expected["activation.seen"])
            torch.testing.assert_close(found["activation.mean_logit"], expected["activation.mean_logit"])
    assert expected["activation.seen"].tolist() == seen(images(24))


STATEFUL = ("equalization_v2", "seesaw", "equilibrium", "fcbl")


def train_method_on_ranks(folder, name, size):
    torch.manual_seed(0)
    model = Classifier()
    model.activation = build_activation(name, K, PRIOR)
    model.linear = model.activation.classifier(3)
    data = in_batches(images(24), 8)
    mine = [batch[comm.get_rank() * 8 // size : (comm.get_rank() + 1) * 8 // size] for batch in data]
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if size > 1 else model
    train_toy(step_of(wrapped, mine), len(mine))
    torch.save(state_of(model), folder / f"{size}_{comm.get_rank()}.pth")


@pytest.mark.parametrize("name", STATEFUL)
def test_a_method_has_the_same_state_in_one_process_and_in_two(tmp_path, name):
    for size in (1, 2):
        on_ranks(size, tmp_path, train_method_on_ranks, tmp_path, name, size)
    expected, *found = (torch.load(tmp_path / f"{file}.pth", weights_only=True) for file in ("1_0", "2_0", "2_1"))
    assert expected and any(state.any() for state in expected.values())
    for key, state in expected.items():
        torch.testing.assert_close(found[0][key], state, rtol=1e-5, atol=1e-7)
        assert torch.equal(found[0][key], found[1][key]), "all processes have the same state, to the last bit"


def train_deferred_on_ranks(folder):
    model = Classifier()
    model.activation = build_activation("ldam", K, PRIOR, drw_start=2)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    train_toy(step_of(wrapped, in_batches(images(24), 8)), 3)
    torch.save(model.activation.updates, folder / f"{comm.get_rank()}.pth")


def test_deferred_weights_count_updates_not_processes(tmp_path):
    on_ranks(2, tmp_path, train_deferred_on_ranks, tmp_path)
    assert [torch.load(tmp_path / f"{rank}.pth", weights_only=True).item() for rank in range(2)] == [3, 3]


def test_an_average_of_weights_has_the_state_itself():
    model, average = Classifier(), WeightAverage(0.9)
    average.start(model)
    train_toy(step_of(model, in_batches(images(4), 4)), 1)
    average.update()
    assert torch.equal(average.weights["activation.seen"], model.activation.seen)
    assert not torch.equal(average.weights["linear.weight"], model.linear.weight)


def test_an_average_of_a_run_without_state_is_continued_with_state():
    model, average = Classifier(), WeightAverage(0.9)
    weights = {key: tensor for key, tensor in model.state_dict().items() if key not in state_keys(model)}
    average.load_state_dict({"updates": 3, "weights": {key: tensor + 1 for key, tensor in weights.items()}})
    average.start(model)
    assert torch.equal(average.weights["linear.bias"], model.linear.bias + 1)
    with average.applied(model):
        assert model.activation.seen.tolist() == [0] * K


def test_outside_of_training_nothing_is_kept():
    model = Classifier()
    model(images(4))
    assert model.activation._recorded is None
    updates = StateUpdates(torch.nn.Linear(1, 1))
    updates.accept()
    assert not updates._activations


def test_between_updates_nothing_is_kept():
    """Precise batch statistics are computed by hundreds of batches in training mode."""
    model, data = Classifier(), images(12)
    data[6] = {**data[6], "x": torch.full((3,), NAN)}
    step = step_of(model, in_batches(data, 4))
    model(images(4))
    assert model.activation._recorded is None
    for _ in range(3):  # the second update is skipped
        train_toy(step, 1)
        model(images(4))
        assert model.activation._recorded is None
    assert step.skipped == 1 and model.activation.seen.tolist() == seen(data[:4] + data[8:])


def test_an_unknown_reduction_lists_the_valid_ones():
    with pytest.raises(InputError, match=r"reduce of 'x' is 'max'; valid: sum, mean"):
        toys.Counting(K).add_state("x", torch.zeros(()), reduce="max")


# ------------------------------------------------------------------ real models


STATE = {"MODEL__ROI_BOX_HEAD__ACTIVATION__NAME": toys.COUNTING, "TEST__EVAL_PERIOD": 0, "SEED": 3}


@pytest.fixture(scope="module")
def first_stage(rendered, tmp_path_factory):
    return train("rfs_softmax", rendered, tmp_path_factory.mktemp("first"), SOLVER__MAX_ITER=2, TEST__EVAL_PERIOD=0)


def test_a_second_stage_with_state_starts_from_a_first_stage_without_and_balms_counts_once(
    rendered, first_stage, tmp_path, monkeypatch, package_log
):
    calls = []
    observe = toys.Counting.observe

    def spy(self, logits, gt_classes):
        calls.append(int((gt_classes < 12).sum()))
        observe(self, logits, gt_classes)

    monkeypatch.setattr(toys.Counting, "observe", spy)
    weights = {"MODEL__WEIGHTS": first_stage / "model_final.pth", "SOLVER__MAX_ITER": 3, **STATE}
    with package_log.at_level(logging.INFO, logger="balanced_lvis"):
        train("balms", rendered, tmp_path, **weights)
    told = [message for message in package_log.messages if "has no roi_heads.box_predictor.activation" in message]
    assert len(told) == 1 and "initial values" in told[0]
    assert len(calls) == 3 and sum(calls) > 0
    assert tensors(tmp_path)[f"{ACTIVATION}.seen"].sum() == sum(calls)


def test_a_run_that_is_killed_and_resumed_has_the_state_of_one_that_is_not(rendered, tmp_path):
    options = {"SOLVER__MAX_ITER": 4, "SOLVER__CHECKPOINT_PERIOD": 2, **STATE}
    whole = tensors(train("rfs_softmax", rendered, tmp_path, **options))
    assert whole[f"{ACTIVATION}.seen"].sum() > 0
    before = torch.load(tmp_path / "model_0000001.pth", weights_only=True)["model"][f"{ACTIVATION}.seen"]
    assert 0 < before.sum() < whole[f"{ACTIVATION}.seen"].sum()
    continue_from(tmp_path, 1)
    assert_same_weights(tensors(train("rfs_softmax", rendered, tmp_path, "--resume", **options)), whole)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ldam", {"LDAM__DRW_START": 3}),
        ("softmax_equalization", {"SOFTMAX_EQUALIZATION__GAMMA": 0.5}),
        ("federated", {"FEDERATED__CLASSES_PER_BATCH": 6}),
        ("gol", {"GOL__THRESHOLD": 0.5}),
        ("acsl", {}),
        *((name, {}) for name in STATEFUL),
    ],
)
def test_state_and_random_losses_are_resumed(rendered, tmp_path, name, options):
    node = "MODEL__ROI_BOX_HEAD__ACTIVATION__"
    options = {f"{node}{key}": value for key, value in {"NAME": name, **options}.items()}
    options |= {f"{node}SOFTMAX_EQUALIZATION__THRESHOLD": 0.5, "TEST__EVAL_PERIOD": 0, "SEED": 3}
    options |= {"SOLVER__MAX_ITER": 4, "SOLVER__CHECKPOINT_PERIOD": 2}
    whole = tensors(train("rfs_softmax", rendered, tmp_path, **options))
    if name in STATEFUL:
        assert any(tensor.any() for key, tensor in whole.items() if key.startswith(ACTIVATION))
    if name == "ldam":
        before = torch.load(tmp_path / "model_0000001.pth", weights_only=True)["model"]
        assert (before[f"{ACTIVATION}.updates"], whole[f"{ACTIVATION}.updates"]) == (2, 4)
    continue_from(tmp_path, 1)
    assert_same_weights(tensors(train("rfs_softmax", rendered, tmp_path, "--resume", **options)), whole)
