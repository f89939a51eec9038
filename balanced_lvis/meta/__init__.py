"""
Bilevel learning of how much each class should count: the third part of the papers' method, as plain PyTorch.

The inner level trains a classifier on a balanced loss in which every class has a weight, or a rate at which it is
drawn; the outer level learns those from what one inner step does to the **unshifted** loss on a class-balanced batch.

Ren et al., Balanced Meta-Softmax for Long-Tailed Visual Recognition (NeurIPS 2020).
"""

from .inner_step import one_step_ahead
from .reweighting import ClassWeights, MetaReweighter
from .sampling import MetaSampler

__all__ = ["ClassWeights", "MetaReweighter", "MetaSampler", "one_step_ahead"]
