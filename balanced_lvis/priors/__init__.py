"""
Class frequencies of a training set: counts, frequencies and LVIS's groups. Needs neither Detectron2 nor torch.

    from balanced_lvis.priors import ClassPrior

    prior = ClassPrior(("cat", "dog"), image_count=[90, 10], num_images=100)
    prior.image_frequency()  # [0.9, 0.1]
    prior.groups()  # ["c", "r"]: common, rare

The formula that a method derives from them is in that method's file, such as
:mod:`balanced_lvis.activations.balanced_sigmoid`.
"""

from .class_lists import ClassLists, HasClassLists, check_crowds
from .class_prior import ALL, COMMON_MAX_IMAGES, RARE_MAX_IMAGES, WITH_OBJECTS, ClassPrior, check_count, frequency_group
from .fractal_dimension import fractal_dimension
from .sampled_counts import SampledCounts

__all__ = [
    "ALL",
    "COMMON_MAX_IMAGES",
    "RARE_MAX_IMAGES",
    "WITH_OBJECTS",
    "ClassLists",
    "ClassPrior",
    "HasClassLists",
    "SampledCounts",
    "check_count",
    "check_crowds",
    "fractal_dimension",
    "frequency_group",
]
