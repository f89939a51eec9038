"""Arguments of the Python API that are of a wrong type."""

import pytest

from balanced_lvis import Predictor, evaluate, load_config, train
from balanced_lvis.utils.errors import InputError


@pytest.mark.parametrize("call", [train, lambda cfg: evaluate(cfg, "x.pth"), lambda cfg: Predictor(cfg, "x.pth")])
def test_the_name_of_a_config_is_not_a_config(call):
    with pytest.raises(InputError, match=r"cfg is of type str; pass a config from load_config"):
        call("r50_rfs")


@pytest.mark.parametrize("weights", [None, 3])
@pytest.mark.parametrize("call", [evaluate, Predictor, lambda _, weights: Predictor.from_checkpoint(weights)])
def test_weights_are_a_path(call, weights):
    with pytest.raises(InputError, match=f"weights is {weights}, of type .*; pass the path of a file"):
        call(load_config(), weights)


@pytest.mark.parametrize("num_gpus", ["2", None, 1.0, True])
def test_a_number_of_gpus_is_an_int(num_gpus):
    with pytest.raises(InputError, match="num_gpus is .*; it must be an int"):
        train(load_config(), num_gpus=num_gpus)


@pytest.mark.parametrize("threshold", [2, -0.1, "0.5", None])
def test_a_threshold_is_a_number_from_0_to_1(threshold):
    with pytest.raises(InputError, match="threshold is .*; it must be a number between 0 and 1"):
        Predictor(load_config(), "x.pth", threshold=threshold)
