"""
Bilevel learning of class weights or sampling rates: Meta Sampler and meta re-weighting. Plain PyTorch.

The inner level trains a classifier on a balanced loss in which every class has a weight, or a rate at which it is
sampled. The outer level learns these from the effect of one inner step on the **unshifted** loss of a class-balanced
batch.

Ren et al., Balanced Meta-Softmax for Long-Tailed Visual Recognition (NeurIPS 2020).
"""

from .inner_step import one_step_ahead
from .reweighting import ClassWeights, MetaReweighter
from .sampling import MetaSampler, RateLearner

__all__ = ["ClassWeights", "MetaReweighter", "MetaSampler", "RateLearner", "one_step_ahead"]
