"""The model that a LazyConfig declares, as a meta-architecture of Detectron2."""

from __future__ import annotations

from detectron2.modeling import META_ARCH_REGISTRY

from ..config.lazy import predictors, write_back
from ..lazy_config.files import build_part, lazy_config
from ..modeling.box_predictor import activation_from_config, calibration_from_config


@META_ARCH_REGISTRY.register()
def build_lazy_model(cfg):
    """
    Build the model of the LazyConfig of a config.

    Activation, calibration and settings of the heads are those of the config, which commands may have changed: the
    activation gets the class prior, and the calibration its files.

    Args:
        cfg: from :func:`balanced_lvis.config.load_config`, of a LazyConfig.

    Raises:
        InputError: if the file of the LazyConfig can't be read, or the model can't be built.
    """
    lazy = lazy_config(cfg)
    write_back(lazy, cfg)
    for predictor in predictors(lazy):
        predictor.activation = activation_from_config(cfg)
        predictor.calibration = calibration_from_config(cfg)
    return build_part(lazy, "model", cfg.LAZY.FILE)
