"""
Configuration: Detectron2's keys and balanced_lvis's, config files and overrides.

::

    from balanced_lvis.config import load_config

    cfg = load_config("r50_balanced_sigmoid", ["SOLVER.IMS_PER_BATCH", "8"])

A config is found by its path, or by its name if it comes with balanced_lvis. It may list modules under ``IMPORTS``,
which are imported before its keys are checked, so that they can register activations, calibrations and samplers whose
options are then valid keys.
"""

from .. import _detectron2

_detectron2.require()

from ..config_files.imports import add_import_argument, import_modules, import_overrides  # noqa: E402
from .defaults import add_balanced_lvis_config, default_config  # noqa: E402
from .loading import load_config, thawed  # noqa: E402

__all__ = [
    "add_balanced_lvis_config",
    "add_import_argument",
    "default_config",
    "import_modules",
    "import_overrides",
    "load_config",
    "thawed",
]
