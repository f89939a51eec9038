"""What holds for every calibration, and each one against its naive derivation."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balanced_lvis.activations import Softmax, build_activation
from balanced_lvis.calibration import (
    LogitStatistics,
    StatisticsCollector,
    build_calibration,
    calibration_names,
    register_calibration,
)
from balanced_lvis.calibration.base import check_fits
from balanced_lvis.calibration.iif import VARIANTS
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from tests import reference
from tests import reference_calibration as naive
from tests.activations import toys

K = 6
NAMES = tuple("abcdef")
IMAGE_COUNT = [1, 5, 20, 60, 150, 400]
INSTANCE_COUNT = [1, 9, 20, 200, 160, 4000]
COUNTS = {"image": IMAGE_COUNT, "instance": INSTANCE_COUNT}
NUM_IMAGES = 500
DIMENSIONS = [1.0, 1.2, 1.0, 1.6, 1.8, 1.95]
MEAN, STD = [-7.0, -6.5, -5.0, -5.5, -4.0, -3.0], [0.5, 0.8, 1.0, 1.2, 1.5, 2.0]
# Options under which a calibration does nothing, and those that equal counts change nothing of.
OFF = {
    "logit_adjustment": {"tau": 0.0},
    "norcal": {"gamma": 0.0},
    "fracal": {"strength": 0.0, "tau": 0.0},
}
NEUTRAL = ("logit_adjustment", "iif", "fracal")


class OwnLogits(Softmax):
    """Its class logits are not the first K columns, and it doesn't tell how to replace them."""

    def class_logits(self, logits):
        return logits[:, 1:]


@pytest.fixture(scope="module", autouse=True)
def _toys():
    with toys.registered():
        toys.register_activation("toy_own_logits")(OwnLogits)
        yield


ACTIVATIONS = ["sigmoid", "softmax", "seesaw", "sigmoid_background", "gumbel"]
FITTING = {name: ["softmax", "seesaw"] if name in ("iif", "logn") else ACTIVATIONS for name in calibration_names()}
PAIRS = [(name, activation) for name in calibration_names() for activation in FITTING[name]]
WITHOUT_BACKGROUND = [(name, activation) for name, activation in PAIRS if activation in ("sigmoid", "softmax")]


@pytest.fixture
def prior():
    return ClassPrior(NAMES, IMAGE_COUNT, NUM_IMAGES, INSTANCE_COUNT, fractal_dimension=DIMENSIONS)


@pytest.fixture
def build(tmp_path):
    """``build_calibration`` with the options that a calibration can't do without."""
    LogitStatistics(NAMES, MEAN, STD, 100).save(tmp_path / "statistics.json")
    needed = {"logn": {"statistics": str(tmp_path / "statistics.json")}}
    return lambda name, prior, **options: build_calibration(name, K, prior, **needed.get(name, {}), **options)


def some_logits(dtype=torch.float64, outputs=K + 1, seed=0):
    return (torch.randn(40, outputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3).to(dtype)


def logits_of(activation, **options):
    return some_logits(outputs=activation.num_outputs, **options)


# ------------------------------------------------------------------ against the references


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("family", ["sigmoid", "softmax"])
@pytest.mark.parametrize("count", COUNTS)
def test_logit_adjustment_equals_naive_loops(prior, family, tau, count):
    calibration = build_calibration("logit_adjustment", K, prior, tau=tau, count=count)
    logits = some_logits()
    found = calibration.scores(build_activation(family, K), logits)
    np.testing.assert_allclose(found, reference.adjusted_scores(logits.tolist(), COUNTS[count], tau, family), atol=1e-6)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.5])
@pytest.mark.parametrize("count", COUNTS)
def test_norcal_equals_naive_loops(prior, gamma, count, background):
    calibration = build_calibration("norcal", K, prior, gamma=gamma, count=count)
    for name, expected in (("softmax", naive.norcal_softmax), ("sigmoid", naive.norcal_sigmoid)):
        activation = build_activation(name, K, background=background)
        logits = logits_of(activation)
        found = calibration.scores(activation, logits)
        wanted = np.array(expected(logits.tolist(), COUNTS[count], gamma))
        np.testing.assert_allclose(found[:, : wanted.shape[1]], wanted, atol=1e-6)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("form", ["multiply", "add"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_iif_equals_naive_loops(variant, form, relative, background):
    counts, total = [1, 5, 20, 60, 100, 160], 500  # no inverse frequency is negative
    prior = ClassPrior(NAMES, counts, total)
    calibration = build_calibration("iif", K, prior, variant=variant, form=form, relative=relative)
    activation = build_activation("softmax", K, background=background)
    logits = logits_of(activation)
    expected = naive.iif(logits.tolist(), counts, total, variant, form, relative)
    np.testing.assert_allclose(calibration.scores(activation, logits), expected, atol=1e-6)


def test_iif_counts_instances(prior):
    activation, logits = build_activation("softmax", K), some_logits()
    found = build_calibration("iif", K, prior, variant="base10", form="add", count="instance").scores(
        activation, logits
    )
    expected = naive.iif(logits.tolist(), INSTANCE_COUNT, sum(INSTANCE_COUNT), "base10", "add", True)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("count", COUNTS)
def test_fracal_equals_naive_loops(prior, strength, count):
    calibration = build_calibration("fracal", K, prior, strength=strength, count=count)
    for name, expected in (("softmax", naive.fracal_softmax), ("sigmoid", naive.fracal_sigmoid)):
        logits = some_logits()
        found = calibration.scores(build_activation(name, K), logits)
        wanted = np.array(expected(logits.tolist(), COUNTS[count], DIMENSIONS, strength))
        np.testing.assert_allclose(found[:, : wanted.shape[1]], wanted, atol=1e-6)


def test_logn_equals_naive_loops(build):
    calibration = build("logn", None)
    for name in FITTING["logn"]:
        activation = build_activation(name, K)
        logits = logits_of(activation)
        expected = activation.scores(torch.tensor(naive.logn(logits.tolist(), MEAN, STD), dtype=torch.float64))
        torch.testing.assert_close(calibration.scores(activation, logits), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["sigmoid", "softmax"])
def test_logit_adjustment_without_background_is_that_of_the_classes_alone(prior, family):
    logits = some_logits(outputs=K)
    found = build_calibration("logit_adjustment", K, prior).scores(
        build_activation(family, K, background=False), logits
    )
    padded = [[*row, -600.0] for row in logits.tolist()]  # a background that takes no part
    np.testing.assert_allclose(found, reference.adjusted_scores(padded, IMAGE_COUNT, 1.0, family)[:, :K], atol=1e-6)


def test_logit_adjustment_undoes_the_shift_of_balanced_softmax(prior):
    """Training with Balanced Softmax, tested raw, and training plainly, tested adjusted, are the same correction."""
    balanced, plain = build_activation("balanced_softmax", K, prior), build_activation("softmax", K)
    logits = some_logits()
    shifted = logits + balanced.offset
    calibration = build_calibration("logit_adjustment", K, prior)
    torch.testing.assert_close(calibration.scores(plain, shifted), balanced.scores(logits), atol=1e-6, rtol=1e-5)


def test_norcal_orders_the_classes_of_an_roi_as_logit_adjustment_does(prior):
    activation, logits = build_activation("softmax", K), some_logits()
    found = build_calibration("norcal", K, prior, gamma=0.7).scores(activation, logits)
    expected = build_calibration("logit_adjustment", K, prior, tau=0.7).scores(activation, logits)
    assert torch.equal(found[:, :K].argsort(dim=1), expected[:, :K].argsort(dim=1))


# ------------------------------------------------------------------ what holds for all


@pytest.mark.parametrize(("name", "activation_name"), PAIRS)
def test_scores_are_of_the_shape_and_range_of_the_activations(build, prior, name, activation_name):
    check_fits(name, activation_name)
    calibration, activation = build(name, prior), build_activation(activation_name, K)
    check_scores(calibration, activation)


@pytest.mark.parametrize(("name", "activation_name"), WITHOUT_BACKGROUND)
def test_so_they_are_without_background(build, prior, name, activation_name):
    check_scores(build(name, prior), build_activation(activation_name, K, background=False))


def check_scores(calibration, activation):
    logits = logits_of(activation)
    before = logits.clone()
    scores = calibration.scores(activation, logits)
    assert scores.shape == activation.scores(logits).shape
    assert not torch.equal(scores, activation.scores(logits))
    assert (scores >= 0).all() and (scores <= 1).all()
    assert torch.equal(logits, before)
    assert calibration.scores(activation, logits[:0]).shape == (0, scores.shape[1])
    calibration.prepare(activation)


@pytest.mark.parametrize(("name", "activation_name"), [pair for pair in PAIRS if pair[0] in NEUTRAL])
def test_equal_counts_change_nothing(name, activation_name):
    prior = ClassPrior(NAMES, [10] * K, 100, [30] * K, fractal_dimension=[1.0] * K)
    activation = build_activation(activation_name, K)
    logits = logits_of(activation)
    plain = activation.scores(logits)
    if name == "fracal" and not activation.normalized_scores:
        plain = plain**2  # times the calibrated one, which is equal
    found = build_calibration(name, K, prior).scores(activation, logits)
    torch.testing.assert_close(found, plain, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize(("name", "activation_name"), [pair for pair in PAIRS if pair[0] in OFF])
def test_a_strength_of_zero_changes_nothing(prior, name, activation_name):
    activation = build_activation(activation_name, K)
    logits = logits_of(activation)
    plain = activation.scores(logits)
    if name == "fracal" and not activation.normalized_scores:
        plain = plain**2
    found = build_calibration(name, K, prior, **OFF[name]).scores(activation, logits)
    torch.testing.assert_close(found, plain, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize(("name", "activation_name"), PAIRS)
def test_scores_of_a_class_rise_with_its_logit(build, prior, name, activation_name):
    calibration, activation = build(name, prior), build_activation(activation_name, K)
    for c in range(K):
        logits = torch.full((50, activation.num_outputs), -1.0, dtype=torch.float64)
        logits[:, c] = torch.linspace(-4, 8, 50, dtype=torch.float64)
        scores = calibration.scores(activation, logits)[:, c]
        assert (scores.diff() >= 0).all() and scores[0] < scores[-1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "family"), WITHOUT_BACKGROUND)
def test_half_precision_is_computed_in_float32(build, prior, name, family, dtype):
    calibration, activation = build(name, prior), build_activation(family, K)
    logits = some_logits(dtype)
    scores = calibration.scores(activation, logits)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, calibration.scores(activation, logits.float()))


@pytest.mark.parametrize(("name", "family"), WITHOUT_BACKGROUND)
@settings(max_examples=20, deadline=None)
@given(row=st.lists(st.floats(-1e4, 1e4), min_size=K + 1, max_size=K + 1))
def test_extreme_logits_give_scores(tmp_path_factory, name, family, row):
    path = tmp_path_factory.getbasetemp() / "extreme.json"
    if not path.exists():
        LogitStatistics(NAMES, MEAN, STD, 100).save(path)
    prior = ClassPrior(NAMES, [0, 1, 20, 60, 150, 499], 500, fractal_dimension=DIMENSIONS)
    options = {"logn": {"statistics": str(path)}}.get(name, {})
    activation = build_activation(family, K)
    scores = build_calibration(name, K, prior, **options).scores(activation, torch.tensor([row], dtype=torch.float32))
    assert torch.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()
    if activation.normalized_scores:
        assert scores.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", calibration_names())
def test_nothing_of_a_calibration_is_in_a_checkpoint(build, prior, name):
    calibration = build(name, prior)
    calibration.prepare(build_activation("softmax", K))
    assert not calibration.state_dict() and not list(calibration.parameters())


def test_one_class_is_calibrated():
    prior = ClassPrior(("a",), [3], 10, [4], fractal_dimension=[1.5])
    for name in ("logit_adjustment", "norcal", "iif", "fracal"):
        for family in ("softmax", "sigmoid")[: 1 if name == "iif" else 2]:
            scores = build_calibration(name, 1, prior).scores(build_activation(family, 1), torch.zeros(2, 2))
            assert scores.shape == (2, 2) and torch.isfinite(scores).all()


# ------------------------------------------------------------------ statistics of logits


def test_statistics_are_those_of_all_batches_together():
    batches = [torch.randn(n, K, dtype=torch.float64) * 4 + 1000 for n in (3, 0, 1, 50)]
    collector = StatisticsCollector(K)
    for batch in batches:
        collector.add(batch)
    found, logits = collector.statistics(NAMES, "x.pth"), torch.cat(batches).numpy()
    np.testing.assert_allclose(found.mean, logits.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std, logits.std(axis=0, ddof=1), rtol=1e-10)
    assert (found.num_rois, found.weights, found.class_names) == (54, "x.pth", NAMES)


def test_statistics_are_saved_and_loaded(tmp_path):
    saved = LogitStatistics(NAMES, MEAN, STD, 100, "x.pth", "5e1f")
    saved.save(tmp_path / "statistics.json")
    loaded = LogitStatistics.load(tmp_path / "statistics.json")
    for field in ("class_names", "num_rois", "weights"):
        assert getattr(loaded, field) == getattr(saved, field)
    assert loaded.mean.tolist() == MEAN and loaded.std.tolist() == STD


def test_logn_refuses_statistics_of_other_classes(build, tmp_path):
    calibration = build("logn", None)
    calibration.check_classes(list(NAMES), "dataset 'x'")
    with pytest.raises(InputError, match="other classes than dataset 'x': 'a' in place of 'b'"):
        calibration.check_classes("bacdef", "dataset 'x'")
    with pytest.raises(InputError, match="is of 6 classes, and the model has 5"):
        build_calibration("logn", 5, statistics=str(tmp_path / "statistics.json"))


FORMAT = "balanced_lvis logit statistics 1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't be read: No such file"),
        ("{", "not valid JSON"),
        ("[]", "has no logit statistics"),
        ({"format": "balanced_lvis class prior 1"}, "has no logit statistics"),
        ({"format": FORMAT}, "incomplete or malformed"),
        ({"format": FORMAT, "weights": "", "num_rois": 3, "classes": [{"name": "a", "mean": "x", "std": 1}]}, "finite"),
        ({"format": FORMAT, "weights": "", "num_rois": 3, "classes": [{"name": "a", "mean": 1, "std": 0}]}, "'a' is 0"),
    ],
)
def test_bad_statistics_are_named(tmp_path, content, message):
    path = tmp_path / "statistics.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=message):
        LogitStatistics.load(path)


def test_too_few_rois_and_constant_logits_give_no_statistics():
    collector = StatisticsCollector(K)
    collector.add(torch.zeros(1, K))
    with pytest.raises(InputError, match="at least 2 RoIs, and there were 1"):
        collector.statistics(NAMES)
    collector.add(torch.zeros(1, K))
    with pytest.raises(InputError, match="standard deviation of class 'a' is 0"):
        collector.statistics(NAMES)


# ------------------------------------------------------------------ errors

NO_DIMENSIONS = ClassPrior(NAMES, IMAGE_COUNT, NUM_IMAGES)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: build_calibration("logit_adjustmnt", K, p), "Did you mean 'logit_adjustment'"),
        (lambda p: build_calibration("logit_adjustment", K, p, gamma=1), "no option 'gamma'; valid: tau, count"),
        (lambda p: build_calibration("logit_adjustment", K, p, tau=float("nan")), "tau of logit_adjustment is nan"),
        (lambda p: build_calibration("logit_adjustment", K, p, count="pixel"), "'pixel'; valid"),
        (lambda p: build_calibration("logit_adjustment", 5, p), "num_classes is 5, but the class prior has 6"),
        (
            lambda p: build_calibration("logit_adjustment", K).prepare(build_activation("sigmoid", K)),
            "LogitAdjustment needs prior=",
        ),
        (lambda p: build_calibration("norcal", K, p, gamma=-1.0), "gamma of norcal is -1.0; it must be .* at least 0"),
        (lambda p: build_calibration("fracal", K, p, strength=-1.0), "strength of fracal is -1.0"),
        (lambda p: build_calibration("fracal", K, p, tau=float("inf")), "tau of fracal is inf"),
        (
            lambda p: build_calibration("fracal", K, NO_DIMENSIONS).prepare(build_activation("sigmoid", K)),
            "'fracal' needs the fractal dimension .* analyze-dataset DATASET --boxes --json",
        ),
        (lambda p: build_calibration("iif", K, p, variant="ln"), "variant of iif is 'ln'; valid: raw, smooth"),
        (lambda p: build_calibration("iif", K, p, form="times"), "form of iif is 'times'; valid: multiply, add"),
        (
            lambda p: build_calibration("iif", K, p, variant="rel").prepare(build_activation("softmax", K)),
            "inverse frequency of class 'f' is -1.39, and logits can only be multiplied",
        ),
        (
            lambda p: build_calibration("logn", K, p),
            "statistics of logn is empty. Write the statistics .* next to it, or set STATISTICS",
        ),
        (
            lambda p: check_fits("iif", "sigmoid"),
            "'iif' can't be combined with activation 'sigmoid': it is for the families softmax",
        ),
        (
            lambda p: check_fits("norcal", "toy_own_logits"),
            "'norcal' can't be combined with activation 'toy_own_logits': OwnLogits overrides class_logits",
        ),
        (lambda p: register_calibration("logit_adjustment")(object), "registered already"),
    ],
)
def test_bad_arguments_are_named(prior, make, message):
    with pytest.raises(InputError, match=message):
        make(prior)
