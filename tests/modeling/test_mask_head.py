"""The mask head against Detectron2's own on the same parameters and inputs, and against plain loops."""

import copy

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import build_mask_head
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from balanced_lvis.modeling import ChosenClassMaskHead
from balanced_lvis.modeling.mask_head import chosen_logits
from balanced_lvis.utils.errors import InputError
from tests import reference, reference_stateful

K = 5
SHAPE = ShapeSpec(channels=3, height=4, width=4)
METRICS = {"mask_rcnn/accuracy", "mask_rcnn/false_positive", "mask_rcnn/false_negative"}

# Classes of the RoIs of up to three images, of which any may have none; repeated ones are frequent among five.
BATCHES = st.lists(st.lists(st.integers(0, K - 1), max_size=6), min_size=1, max_size=3)
ALL_CLASSES = [[0, 1, 2, 3, 4]]
NO_ROI = [[], []]
ONE_ROI = [[3]]
ONE_CLASS = [[2, 2, 2], [2]]


def heads(dtype=torch.float64, num_classes=K, **options):
    """Detectron2's head and ours, from the same config, with the same parameters of a trained head's size."""
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 4
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    for key, value in options.items():
        cfg.MODEL.ROI_MASK_HEAD[key] = value
    made = []
    for name in ("MaskRCNNConvUpsampleHead", "ChosenClassMaskHead"):
        cfg.MODEL.ROI_MASK_HEAD.NAME = name
        made.append(build_mask_head(cfg, SHAPE).to(dtype))
    stock, ours = made
    torch.nn.init.normal_(stock.predictor.weight)
    torch.nn.init.normal_(stock.predictor.bias)
    ours.load_state_dict(stock.state_dict())
    return stock, ours


def rois(classes, generator=None):
    """Instances of images whose RoIs have these classes: random boxes, and triangles as ground truth."""
    made = []
    for of_image in classes:
        corners = torch.rand(len(of_image), 2, generator=generator) * 20
        boxes = torch.cat([corners, corners + 5 + torch.rand(len(of_image), 2, generator=generator) * 20], dim=1)
        triangles = torch.rand(len(of_image), 6, generator=generator, dtype=torch.float64) * 40
        made.append(
            Instances(
                (50, 50),
                gt_classes=torch.tensor(of_image, dtype=torch.int64),
                pred_classes=torch.tensor(of_image, dtype=torch.int64),
                proposal_boxes=Boxes(boxes),
                gt_masks=PolygonMasks([[t.numpy()] for t in triangles]),
            )
        )
    return made


def pooled(instances, dtype=torch.float64):
    count = sum(len(i) for i in instances)
    return torch.randn(count, SHAPE.channels, SHAPE.height, SHAPE.width, dtype=dtype)


def training_step(head, x, instances, scale=1.0):
    """Loss, metrics, and gradients of the features and all parameters."""
    x = x.clone().requires_grad_()
    head.train().zero_grad()
    with EventStorage() as storage:
        losses = head(x, instances)
        metrics = {name: value for name, (value, _) in storage.latest().items()}
    assert set(losses) == {"loss_mask"}
    (losses["loss_mask"] * scale).backward()
    gradients = {name: p.grad for name, p in head.named_parameters()}
    return losses["loss_mask"].detach(), metrics, {"x": x.grad, **gradients}


def on_batches(test):
    """Decorator: on random batches, and on the four that are easily got wrong."""
    for batch in (ALL_CLASSES, NO_ROI, ONE_ROI, ONE_CLASS):
        test = example(batch, 0)(test)
    return settings(deadline=None)(given(classes=BATCHES, seed=st.integers(0, 2**31))(test))


@on_batches
def test_loss_gradients_and_metrics_are_those_of_detectron2(classes, seed):
    torch.manual_seed(seed)
    stock, ours = heads()
    instances = rois(classes)
    x = pooled(instances)
    expected, found = (training_step(head, x, instances) for head in (stock, ours))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=0)
    assert found[1] == expected[1]
    assert set(found[1]) == (METRICS if any(classes) else set())
    assert set(found[2]) == set(expected[2])
    for name, gradient in expected[2].items():
        torch.testing.assert_close(found[2][name], gradient, rtol=1e-9, atol=1e-15, msg=lambda m, n=name: f"{n}: {m}")


@on_batches
def test_masks_at_test_time_are_those_of_detectron2(classes, seed):
    torch.manual_seed(seed)
    stock, ours = heads()
    instances = rois(classes)
    x = pooled(instances)
    with torch.no_grad():
        expected, found = (head.eval()(x, copy.deepcopy(instances)) for head in (stock, ours))
    for a, b, of_image in zip(expected, found, classes):
        assert b.pred_masks.shape == (len(of_image), 1, 8, 8)
        torch.testing.assert_close(b.pred_masks, a.pred_masks, rtol=1e-12, atol=1e-15)


@settings(deadline=None, max_examples=20)
@given(classes=st.lists(st.integers(0, K - 1), min_size=1, max_size=4), seed=st.integers(0, 2**31))
@example([1], 0)
@example([2, 2, 2], 0)
def test_logits_loss_and_gradients_are_those_of_plain_loops(classes, seed):
    torch.manual_seed(seed)
    features, weight, bias = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in [(len(classes), 3, 2, 2), (K, 3), (K,)]
    )
    targets = torch.rand(len(classes), 2, 2) < 0.5
    logits = chosen_logits(features, torch.tensor(classes), weight[:, :, None, None], bias)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.double())
    loss.backward()
    plain = [t.detach().numpy() for t in (features, weight, bias)]
    expected = reference.mask_logits(plain[0], classes, *plain[1:])
    np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=1e-12, atol=1e-14)
    assert loss.item() == pytest.approx(reference.mask_loss(expected, targets.numpy()), rel=1e-12)
    gradients = reference.mask_loss_gradients(plain[0], classes, *plain[1:], targets.numpy())
    for variable, gradient in zip((features, weight, bias), gradients):
        np.testing.assert_allclose(variable.grad.numpy(), gradient, rtol=1e-10, atol=1e-15)


def test_second_derivatives_exist():
    """Meta-learning differentiates through training steps."""
    classes = torch.tensor([1, 3, 1])
    variables = [
        torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in [(3, 2, 2, 2), (K, 2, 1, 1), (K,)]
    ]
    torch.autograd.gradgradcheck(lambda *v: chosen_logits(v[0], classes, *v[1:]).sigmoid(), variables)


def test_single_precision_differs_by_its_rounding_only():
    stock, ours = heads(torch.float32)
    instances = rois([[0, 1, 1], [4]])
    x = pooled(instances, torch.float32)
    expected, found = (training_step(head, x, instances) for head in (stock, ours))
    torch.testing.assert_close(found[0], expected[0])
    for name, gradient in expected[2].items():
        torch.testing.assert_close(found[2][name], gradient, rtol=1e-4, atol=1e-7)


def test_checkpoints_go_either_way():
    stock, ours = heads()
    expected = {name: (p.shape, p.dtype) for name, p in stock.state_dict().items()}
    assert {name: (p.shape, p.dtype) for name, p in ours.state_dict().items()} == expected
    assert ours.predictor.weight.shape == (K, 4, 1, 1)
    stock.load_state_dict(ours.state_dict())


def test_both_heads_start_from_the_same_random_weights():
    made = []
    for head in (MaskRCNNConvUpsampleHead, ChosenClassMaskHead):
        torch.manual_seed(0)
        made.append(head(SHAPE, num_classes=K, conv_dims=[4, 4]).state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_classes_that_no_roi_has_get_gradients_of_zero():
    _, ours = heads()
    instances = rois([[1, 3, 3]])
    _, _, gradients = training_step(ours, pooled(instances), instances)
    for name in ("predictor.weight", "predictor.bias"):
        assert gradients[name].layout == torch.strided
        assert [c for c in range(K) if gradients[name][c].abs().sum() > 0] == [1, 3]


def test_a_batch_without_foreground_has_a_loss_of_zero_with_gradients_of_zero():
    _, ours = heads()
    instances = rois(NO_ROI)
    loss, metrics, gradients = training_step(ours, pooled(instances), instances)
    assert loss == 0
    assert not metrics
    assert all(gradient is not None and not gradient.any() for gradient in gradients.values())


def test_gradients_are_the_same_to_the_bit_every_time():
    """Even though many RoIs add to the same class, on as many threads as there are."""
    features = torch.randn(200, 16, 8, 8, requires_grad=True)
    weight, bias = torch.randn(K, 16, 1, 1, requires_grad=True), torch.randn(K, requires_grad=True)
    classes = torch.randint(0, 2, (200,))
    found = []
    for _ in range(5):
        logits = chosen_logits(features, classes, weight, bias)
        found.append(torch.autograd.grad(logits.sigmoid().sum(), (features, weight, bias)))
    assert all(torch.equal(a, b) for again in found[1:] for a, b in zip(found[0], again))


def test_channels_last_features_give_the_same():
    features = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    weight, bias = torch.randn(K, 4, 1, 1, dtype=torch.float64), torch.randn(K, dtype=torch.float64)
    classes = torch.tensor([0, 3, 3])
    expected = chosen_logits(features, classes, weight, bias)
    features = features.to(memory_format=torch.channels_last)
    torch.testing.assert_close(chosen_logits(features, classes, weight, bias), expected)


def test_a_class_out_of_range_is_refused():
    _, ours = heads()
    instances = rois([[K]])
    with pytest.raises(IndexError):
        ours.eval()(pooled(instances), instances)


class LargestTensor(TorchDispatchMode):
    """Notes the number of entries of the largest tensor that any operation returns."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_flatten(out)[0] if isinstance(t, torch.Tensor)]
        self.entries = max([self.entries, *sizes])
        return out


@pytest.mark.parametrize("training", [True, False])
def test_the_masks_of_other_classes_are_never_there(training):
    """No tensor, forward or backward, has the entries of K masks per RoI, nor even half of them."""
    largest = []
    for head in heads(torch.float32, num_classes=300):
        instances = rois([[0, 17, 299, 17]])
        x = pooled(instances, torch.float32)
        with LargestTensor() as mode:
            if training:
                training_step(head, x, instances)
            else:
                head.eval()(x, instances)
        largest.append(mode.entries)
    features = 4 * 4 * 8 * 8  # R x D x M x M
    parameters = 300 * 4
    assert largest[0] == 4 * 300 * 8 * 8
    assert largest[1] <= max(features, parameters)


def test_class_agnostic_masks_are_detectron2s_own():
    stock, ours = heads(CLS_AGNOSTIC_MASK=True)
    assert ours.predictor.weight.shape[0] == 1
    instances = rois([[0, 4], [3]])
    x = pooled(instances)
    expected, found = (training_step(head, x, instances) for head in (stock, ours))
    assert found[0] == expected[0]
    assert all(torch.equal(found[2][name], gradient) for name, gradient in expected[2].items())
    expected, found = (head.eval()(x, copy.deepcopy(instances)) for head in (stock, ours))
    assert all(torch.equal(b.pred_masks, a.pred_masks) for a, b in zip(expected, found))


def test_masks_are_drawn_as_often_as_the_config_says():
    stock, ours = heads()
    instances = rois([[0, 4], [3]])
    x = pooled(instances)
    pictures = []
    for head in (stock, ours):
        head.vis_period = 1
        with EventStorage() as storage:
            head.train()(x, instances)
            pictures.append(storage._vis_data)
    assert len(pictures[1]) == 3
    for (name, picture, iteration), (other, expected, _) in zip(*pictures[::-1]):
        assert (name, iteration) == (other, 0)
        torch.testing.assert_close(picture, expected)


# ------------------------------------------------------------------ the normalized predictor


class AllNormalizedMasks(torch.nn.Module):
    """All K masks of each RoI, by a convolution of explicitly normalized features and weights."""

    def __init__(self, predictor):
        super().__init__()
        self.weight, self.bias = predictor.weight, predictor.bias

    def forward(self, x):
        x = 20 * x / x.norm(dim=1, keepdim=True).clamp(min=1e-6)  # features are 0 where no ReLU is active
        weight = self.weight / self.weight.norm(dim=1, keepdim=True)
        return torch.nn.functional.conv2d(x, weight, self.bias)


def normalized_heads(**options):
    """Detectron2's head with a predictor of all normalized masks, and ours, with the same parameters."""
    stock, _ = heads(**options)
    ours = ChosenClassMaskHead(SHAPE, num_classes=stock.predictor.out_channels, conv_dims=[4, 4], temperature=20.0)
    ours.double().load_state_dict(stock.state_dict())
    stock.predictor = AllNormalizedMasks(stock.predictor)
    return stock, ours


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("classes", [ALL_CLASSES, NO_ROI, ONE_ROI, ONE_CLASS])
def test_normalized_masks_are_those_of_a_full_computation(classes, agnostic):
    torch.manual_seed(0)
    stock, ours = normalized_heads(CLS_AGNOSTIC_MASK=agnostic)
    instances = rois(classes)
    x = pooled(instances)
    expected, found = (training_step(head, x, instances) for head in (stock, ours))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=0)
    assert found[1] == expected[1] and set(found[2]) == set(expected[2])
    for name, gradient in expected[2].items():
        torch.testing.assert_close(found[2][name], gradient, rtol=1e-9, atol=1e-13)
    with torch.no_grad():
        expected, found = (head.eval()(x, copy.deepcopy(instances)) for head in (stock, ours))
    for a, b in zip(expected, found):
        torch.testing.assert_close(b.pred_masks, a.pred_masks, rtol=1e-12, atol=1e-15)


def test_normalized_mask_logits_are_those_of_plain_loops():
    torch.manual_seed(0)
    _, ours = normalized_heads()
    instances = rois([[2, 0], [2]])
    features = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    features[0, :, 0, 0] = 0
    logits = ours.train().predict(features, instances).detach()
    weight, bias = ours.predictor.weight.flatten(1).tolist(), ours.predictor.bias.tolist()
    for r, c in enumerate([2, 0, 2]):
        points = features[r].flatten(1).T.tolist()
        expected = reference_stateful.normalized_linear(points, weight, bias, 20.0)[:, c]
        np.testing.assert_allclose(logits[r, 0].flatten(), expected, rtol=1e-10)


def test_a_normalized_predictor_is_chosen_by_the_config(tiny_cfg):
    tiny_cfg.MODEL.ROI_MASK_HEAD.TEMPERATURE = 7.0
    assert build_model(tiny_cfg).roi_heads.mask_head.predictor.temperature == 7
    tiny_cfg.MODEL.ROI_MASK_HEAD.CHOSEN_CLASS_ONLY = False
    with pytest.raises(InputError, match="TEMPERATURE is 7.0.*CHOSEN_CLASS_ONLY to True"):
        build_model(tiny_cfg)
    tiny_cfg.MODEL.ROI_MASK_HEAD.CHOSEN_CLASS_ONLY = True
    tiny_cfg.MODEL.ROI_MASK_HEAD.TEMPERATURE = -1.0
    with pytest.raises(InputError, match="TEMPERATURE is -1.0; it must be positive"):
        build_model(tiny_cfg)


# ------------------------------------------------------------------ mixed precision and DDP


def mixed_precision_step(head, x, instances, device, dtype):
    """Everything under autocast as SOLVER.AMP does it, the gradients' scale included."""
    with torch.autocast(device, dtype=dtype):
        loss, _, gradients = training_step(head, x, instances, scale=2.0**10)
    return loss, {name: gradient.float() / 2**10 for name, gradient in gradients.items()}


def check_mixed_precision(device, dtype, tolerance):
    stock, ours = (head.to(device) for head in heads(torch.float32))
    exact = copy.deepcopy(stock)
    instances = [i.to(device) for i in rois([[0, 1, 1, 4], [4]])]
    x = pooled(instances, torch.float32).to(device)
    with torch.autocast(device, dtype=dtype):
        features = ours.deconv_relu(ours.deconv(ours.mask_fcn1(x)))
        logits = ours.train().predict(features, instances)
        assert logits.dtype == stock.predictor(features).dtype == dtype
    expected, found = (mixed_precision_step(head, x, instances, device, dtype) for head in (stock, ours))
    assert found[0].dtype == expected[0].dtype == torch.float32
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=0)
    assert all(p.grad.dtype == torch.float32 for p in ours.parameters())
    _, _, truth = training_step(exact, x, instances)
    for name, gradient in truth.items():
        size = gradient.norm()
        # As far from the gradients of full precision as Detectron2's own, give or take a few roundings.
        assert (found[1][name] - gradient).norm() <= 2 * (expected[1][name] - gradient).norm() + tolerance * size, name


def test_bf16_autocast_works_as_in_detectron2():
    check_mixed_precision("cpu", torch.bfloat16, 2**-7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2**-9), (torch.bfloat16, 2**-7)])
def test_autocast_on_the_gpu_works_as_in_detectron2(dtype, tolerance):
    check_mixed_precision("cuda", dtype, tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("classes", [ALL_CLASSES, NO_ROI, ONE_ROI, ONE_CLASS])
def test_the_gpu_agrees_with_detectron2_in_double_precision(classes):
    stock, ours = (head.cuda() for head in heads())
    instances = [i.to("cuda") for i in rois(classes)]
    x = pooled(instances).cuda()
    expected, found = (training_step(head, x, instances) for head in (stock, ours))
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[2], expected[2])


@pytest.fixture
def one_process(tmp_path):
    """A process group of one, which is enough for DDP to look for parameters without gradients."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_ddp_needs_no_search_for_unused_parameters(one_process):
    """Whichever classes a process has, and without any RoI at all."""
    _, ours = heads()
    parallel = torch.nn.parallel.DistributedDataParallel(ours, find_unused_parameters=False)
    for classes in ([[0, 1]], NO_ROI, [[4, 4]], NO_ROI):
        instances = rois(classes)
        with EventStorage():  # a second forward raises if the first one left a parameter out
            parallel(pooled(instances), instances)["loss_mask"].backward()
    assert all(p.grad is not None for p in ours.parameters())
