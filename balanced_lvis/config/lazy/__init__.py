"""
LazyConfigs as configs: the settings that the engine reads, under the keys of yaml configs.

A LazyConfig declares a model, an optimizer, a schedule, data loaders and ``train``. The engine builds these parts from
the file (:mod:`balanced_lvis.engine.lazy_model`, ``SOLVER.OPTIMIZER`` "LazyConfig", ...), and reads everything else
from a config: datasets, class prior, sampler, checkpoints, evaluation. :func:`config_of_lazy` makes this config. Its
``LAZY`` node names the file and the overrides, so that it can be saved, changed and sent to processes as any other.
"""

from .conversion import config_of_lazy, named_as_in_file
from .keys import ENGINE_KEYS, LAZY, MODEL
from .model import predictors, write_back
from .record import record_lazy

__all__ = [
    "ENGINE_KEYS",
    "LAZY",
    "MODEL",
    "config_of_lazy",
    "named_as_in_file",
    "predictors",
    "record_lazy",
    "write_back",
]
