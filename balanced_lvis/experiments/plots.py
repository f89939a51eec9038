"""Matplotlib without a display, and what the plots of all reports share."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MARKERS = "os^Dv"

__all__ = ["MARKERS", "plt"]
