"""Detectron2's resizing, also of images that are thousands of times longer than wide."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data import transforms as T


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's, but the shorter side keeps at least one pixel, where the limit of the longer one rounds it to 0."""

    def get_transform(self, image):
        """As the base class's."""
        transform = super().get_transform(image)
        if isinstance(transform, T.ResizeTransform):
            transform.new_h, transform.new_w = max(transform.new_h, 1), max(transform.new_w, 1)
        return transform


def keep_a_pixel(augmentations: Sequence) -> list:
    """Augmentations with :class:`ResizeShortestEdge` in place of Detectron2's."""
    return [_replaced(one) if type(one) is T.ResizeShortestEdge else one for one in augmentations]


def _replaced(one: T.ResizeShortestEdge) -> ResizeShortestEdge:
    return ResizeShortestEdge(one.short_edge_length, one.max_size, "range" if one.is_range else "choice", one.interp)
