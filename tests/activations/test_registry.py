"""Names of activations, and errors that name wrong arguments."""

import pytest
import torch

from balanced_lvis.activations import (
    activation_class,
    activation_names,
    build_activation,
    register_activation,
)
from balanced_lvis.utils.errors import InputError
from tests.activations.batches import K, batch


def test_an_unknown_name_lists_the_valid_ones():
    with pytest.raises(InputError, match=r"'balanced_sigmiod'.*Did you mean 'balanced_sigmoid'.*softmax"):
        activation_class("balanced_sigmiod")


def test_a_name_is_registered_once():
    with pytest.raises(InputError, match="registered already"):
        register_activation("sigmoid")(object)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda p: build_activation("balanced_sigmoid", K).prepare(), "needs prior="),
        (lambda p: build_activation("balanced_sigmoid", 5, p), "num_classes is 5, but the class prior has 6"),
        (lambda p: build_activation("balanced_sigmoid", K, p, form="both"), "'both'; valid: centred, foreground"),
        (lambda p: build_activation("balanced_softmax", K, p, count="pixel"), "'pixel'"),
        (lambda p: build_activation("sigmoid", K, prior_probability=0), "prior_probability is 0"),
        (lambda p: build_activation("equalization", K).prepare(), "needs prior="),
        (lambda p: build_activation("equalization", K, p, threshold=0), "threshold of equalization is 0"),
        (lambda p: build_activation("equalization", K, p, threshold=1.5), "threshold of equalization is 1.5"),
        (lambda p: build_activation("equalization", K, p, threshold=float("nan")), "threshold of equalization is nan"),
        (lambda p: build_activation("equalization", K, p, tail_groups="rx"), "'rx'; 'x' is not one of the groups"),
        (lambda p: build_activation("sigmoid", K, form="raw"), "no option 'form'; valid: prior_probability"),
        (lambda p: build_activation("softmax", K, foo=1), "no option 'foo'; valid: none"),
        (lambda p: build_activation("sigmoid", K).loss(torch.zeros(3, K), torch.zeros(3).long()), r"\(3, 6\)"),
        (lambda p: build_activation("softmax", K).scores(torch.zeros(3, K + 2)), r"\(3, 8\)"),
    ],
)
def test_bad_arguments_are_named(prior, build, message):
    with pytest.raises(InputError, match=message):
        build(prior)


@pytest.mark.parametrize("name", activation_names())
def test_roi_weights_of_another_shape_are_refused(prior, name):
    activation = build_activation(name, K, prior)
    logits, gt_classes = batch(rois=3, outputs=activation.num_outputs)
    for weight in (torch.ones(3, 1), torch.ones(1), torch.ones(())):
        with pytest.raises(InputError, match=r"roi_weight has shape .*; with 3 RoIs it must be \(3,\)"):
            activation.loss(logits, gt_classes, weight)


@pytest.mark.parametrize("name", activation_names())
def test_the_unshifted_loss_checks_its_logits_too(prior, name):
    with pytest.raises(InputError, match=r"\(3, 6\)"):
        build_activation(name, K, prior).unshifted_loss(torch.zeros(3, K), torch.zeros(3).long())
