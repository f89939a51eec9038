"""Shared code of all plots, with a matplotlib backend that needs no display."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MARKERS = "os^Dv"

__all__ = ["MARKERS", "plt"]
