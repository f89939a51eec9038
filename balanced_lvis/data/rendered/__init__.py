"""Rendered long-tailed instance segmentation dataset of stickers with characters, in LVIS-1.0's format."""

from .dataset import annotation_file, is_rendered, read_spec, render_dataset
from .glyphs import Glyph, alphabet
from .spec import SPLITS, RenderedSpec

__all__ = [
    "SPLITS",
    "Glyph",
    "RenderedSpec",
    "alphabet",
    "annotation_file",
    "is_rendered",
    "read_spec",
    "render_dataset",
]
