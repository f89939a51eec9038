"""
Samplers: which training images are seen, and how often.

========================================== ==========================================================================
``DATALOADER.SAMPLER_TRAIN``               paper
========================================== ==========================================================================
TrainingSampler                            every image once per epoch (Detectron2's)
RepeatFactorTrainingSampler                RFS (Gupta et al., LVIS, CVPR 2019; Detectron2's)
InstanceAwareRepeatFactorTrainingSampler   IRFS (Yaman et al. 2023)
ClassAwareTrainingSampler                  class, then image (Shen et al., ECCV 2016); for cRT and LWS
========================================== ==========================================================================

All of them are :class:`ResumableSampler`. Detectron2's other samplers work under their names too, but can't be resumed:
:func:`build_sampler` returns None for them.

A custom sampler is a function decorated with :func:`register_sampler`; its keyword-only parameters are config keys.
"""

from .base import Detectron2Sampler, ResumableSampler
from .class_aware import ClassAwareTrainingSampler
from .repeat_factor import InstanceAwareRepeatFactorTrainingSampler, class_repeat_factors, image_repeat_factors
from .sampler_registry import (
    build_sampler,
    check_sampler,
    check_sampler_keys,
    class_names_from_config,
    register_sampler,
    resumable_sampler_names,
    sampler_names,
    sampler_options,
    samplers_with_options,
    times_shown,
)

__all__ = [
    "ClassAwareTrainingSampler",
    "Detectron2Sampler",
    "InstanceAwareRepeatFactorTrainingSampler",
    "ResumableSampler",
    "build_sampler",
    "check_sampler",
    "check_sampler_keys",
    "class_names_from_config",
    "class_repeat_factors",
    "image_repeat_factors",
    "register_sampler",
    "resumable_sampler_names",
    "sampler_names",
    "sampler_options",
    "samplers_with_options",
    "times_shown",
]
