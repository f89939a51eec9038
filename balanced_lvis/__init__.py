"""
Long-tailed instance segmentation with Balanced Activation, on Detectron2.

Importing this package registers its ROI heads with Detectron2. Without Detectron2, :mod:`balanced_lvis.priors` and
:mod:`balanced_lvis.activations` still work as plain NumPy and PyTorch.
"""

import logging
import os

# Has to be set before torch starts OpenMP: spinning threads make small convolutions up to 20 times slower on a shared
# CPU. Whoever has chosen a policy keeps it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from . import _detectron2

__version__ = "0.1.0"

if _detectron2.install():
    _detectron2.import_quietly()
    from . import evaluation, modeling  # noqa: F401
    from .config import add_balanced_lvis_config as add_balanced_lvis_config
else:
    logging.getLogger(__name__).warning(_detectron2.MISSING)


def __getattr__(name):
    if name == "add_balanced_lvis_config":
        _detectron2.require()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
