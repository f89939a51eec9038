"""A long-tailed instance segmentation data set in LVIS-1.0's format, drawn from characters' outlines."""

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
