import math

import pytest

from balanced_lvis.classification.config import default_config
from balanced_lvis.classification.schedules import learning_rate


def config(**values):
    cfg = default_config()
    for key, value in values.items():
        cfg.SOLVER[key] = value
    return cfg


def test_the_cosine_follows_a_linear_warm_up():
    cfg = config(MAX_ITER=110, WARMUP_ITERS=10, WARMUP_FACTOR=0.5, BASE_LR=0.1)
    rates = [learning_rate(cfg, i) for i in range(110)]
    assert rates[0] == pytest.approx(0.1 * (0.5 * 0.9 + 0.1)) and rates[9] == pytest.approx(0.1)
    for i in range(10, 110):
        assert rates[i] == pytest.approx(0.05 * (1 + math.cos(math.pi * (i - 10) / 100)))
    assert 0 < rates[-1] < 1e-4


def test_steps_multiply_the_rate_at_each_step():
    cfg = config(LR_SCHEDULE="steps", STEPS=(4, 6), GAMMA=0.01, WARMUP_ITERS=0, BASE_LR=1.0)
    assert [learning_rate(cfg, i) for i in range(8)] == pytest.approx([1] * 4 + [0.01] * 2 + [0.0001] * 2)
