"""The command ``train``."""

from ..engine import main

__all__ = ["main"]
