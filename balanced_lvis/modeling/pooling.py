"""
Detectron2's RoI pooling with a faster backward pass on the CPU.

RoIAlign averages bilinear samples on a grid. Both the grid and the interpolation are products of a vertical and a
horizontal part, so the gradient of a RoI is the product of three small matrices. torchvision's CPU kernel adds
sample by sample and channel by channel on one core.

Shape shorthand: R RoIs of a level, C channels, S x S bins, H x W positions of a level.
"""

from __future__ import annotations

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels, convert_boxes_to_pooler_format
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torchvision.ops import roi_align


class SeparableROIAlign(ROIAlign):
    """
    ``ROIAlign`` whose backward pass on the CPU consists of matrix products.

    Values are bit-identical to torchvision's; gradients are equal up to the rounding of sums.

    Args:
        output_size, spatial_scale, sampling_ratio, aligned: as for ``ROIAlign``.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """
        Args:
            input: (N, C, H, W).
            rois: (R, 5), image index, x0, y0, x1, y1.

        Returns:
            (R, C, S, S)
        """
        if input.device.type != "cpu" or input.dtype != torch.float32 or not input.requires_grad:
            return super().forward(input, rois)
        options = self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned
        return _ROIAlign.apply(input, rois.to(input.dtype), *options)


class _ROIAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rois, output_size, scale, sampling_ratio, aligned):
        ctx.save_for_backward(rois)
        ctx.options = x.shape, output_size, scale, sampling_ratio, aligned
        return roi_align(x, rois, output_size, scale, sampling_ratio, aligned)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (rois,) = ctx.saved_tensors
        shape, output_size, scale, sampling_ratio, aligned = ctx.options
        offset = 0.5 if aligned else 0.0
        across, down = (
            axis_weights(rois[:, first] * scale - offset, rois[:, first + 2] * scale - offset, bins, size,
                         sampling_ratio, aligned)
            for first, bins, size in ((1, output_size[1], shape[3]), (2, output_size[0], shape[2]))
        )  # fmt: skip
        found = gradient.new_zeros(shape)
        gradient = gradient.transpose(1, 2).contiguous()  # (R, S, C, S)
        images = rois[:, 0].long().tolist()
        bounds = torch.cat([_bounds(down), _bounds(across)], 1).tolist()
        for image, of_roi, rows, columns, (top, bottom, left, right) in zip(images, gradient, down, across, bounds):
            if bottom > top and right > left:
                products = rows[:, top:bottom].T @ of_roi.flatten(1)
                products = products.view(-1, columns.shape[0]) @ columns[:, left:right]
                places = found[image, :, top:bottom, left:right]
                places += products.view(bottom - top, -1, right - left).transpose(0, 1)
        return found, None, None, None, None, None


def axis_weights(
    start: Tensor, end: Tensor, bins: int, size: int, sampling_ratio: int = 0, aligned: bool = True
) -> Tensor:
    """
    The weight of each position of one axis in the average of each bin of RoIAlign.

    Args:
        start, end: (R,) ends of the RoIs, in positions.
        bins: S, number of bins.
        size: number of positions of the axis.
        sampling_ratio: samples per bin; 0 for the number of positions in the bin, rounded up.
        aligned: False enlarges RoIs smaller than a position to one.

    Returns:
        (R, S, size)
    """
    extent = end - start
    if not aligned:
        extent = extent.clamp(min=1)
    width = extent / bins
    samples = torch.full_like(width, sampling_ratio) if sampling_ratio > 0 else width.ceil()
    samples = samples.clamp(min=0)
    sample = torch.arange(int(samples.max()) if len(samples) else 0, dtype=start.dtype)
    # (R, S, samples), with torchvision's order of operations, as rounding decides which samples are inside.
    first = start[:, None] + torch.arange(bins, dtype=start.dtype) * width[:, None]
    place = first[:, :, None] + ((sample + 0.5) * width[:, None] / samples.clamp(min=1)[:, None])[:, None]
    counts = (sample < samples[:, None])[:, None] & (place >= -1) & (place <= size)
    place = place.clamp(0, size - 1)
    low = place.floor()
    share = place - low
    part = counts / samples.clamp(min=1)[:, None, None]
    weights = start.new_zeros(len(start), bins, size)
    weights.scatter_add_(2, low.long(), part * (1 - share))
    weights.scatter_add_(2, (low.long() + 1).clamp(max=size - 1), part * share)
    return weights


def _bounds(weights: Tensor) -> Tensor:
    """(R, 2), the first position with a weight and the one after the last; 0, 0 if there is none."""
    used = (weights != 0).any(1).int()
    some = used.amax(1)
    return torch.stack([used.argmax(1), (used.shape[1] - used.flip(1).argmax(1)) * some], 1)


class LevelPooler(ROIPooler):
    """
    ``ROIPooler`` that copies the values of a RoI once, forwards and backwards; Detectron2's does so for every level.

    Values are bit-identical.

    Args:
        output_size, scales, sampling_ratio, pooler_type, ...: as for ``ROIPooler``; ROIAlign or ROIAlignV2.
    """

    level_poolers: nn.ModuleList

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.level_poolers = nn.ModuleList(
            SeparableROIAlign(p.output_size, p.spatial_scale, p.sampling_ratio, p.aligned) for p in self.level_poolers
        )

    def forward(self, x: list[Tensor], box_lists: list) -> Tensor:
        """
        Args:
            x: (N, C, H, W) per level.
            box_lists: ``Boxes`` per image.

        Returns:
            (R, C, S, S) for the R RoIs of all images.
        """
        if len(self.level_poolers) == 1 or not box_lists:
            return super().forward(x, box_lists)
        rois = convert_boxes_to_pooler_format(box_lists)
        levels = assign_boxes_to_levels(
            box_lists, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        )
        rows = _rows_by_level(levels, len(self.level_poolers))
        pooled = [pool(level, rois[part]) for pool, level, part in zip(self.level_poolers, x, rows)]
        return _Together.apply(len(rois), *rows, *pooled)


def _rows_by_level(levels: Tensor, num_levels: int) -> tuple[Tensor, ...]:
    """The ascending indices of the RoIs of each level. The host waits for a GPU once, not once per level."""
    counts = (levels == torch.arange(num_levels, device=levels.device)[:, None]).sum(1)
    return levels.argsort(stable=True).split(counts.tolist())


class _Together(torch.autograd.Function):
    """(R, ...) made of parts, each with the indices of its rows; every row is in one part."""

    @staticmethod
    def forward(ctx, length, *rows_and_parts):
        rows, parts = rows_and_parts[: len(rows_and_parts) // 2], rows_and_parts[len(rows_and_parts) // 2 :]
        ctx.save_for_backward(*rows)
        together = parts[0].new_empty(length, *parts[0].shape[1:])
        for row, part in zip(rows, parts):
            together[row] = part
        return together

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        rows = ctx.saved_tensors
        return None, *[None] * len(rows), *(gradient[row] for row in rows)


def faster_pooler(pooler):
    """
    A :class:`LevelPooler` with the settings of ``pooler`` if it is a ``ROIPooler`` with RoIAlign, else ``pooler``.

    Args:
        pooler: Detectron2's pooler, or None.
    """
    if type(pooler) is not ROIPooler or any(type(level) is not ROIAlign for level in pooler.level_poolers):
        return pooler
    first = pooler.level_poolers[0]
    return LevelPooler(
        pooler.output_size,
        scales=[level.spatial_scale for level in pooler.level_poolers],
        sampling_ratio=first.sampling_ratio,
        pooler_type="ROIAlignV2" if first.aligned else "ROIAlign",
        canonical_box_size=pooler.canonical_box_size,
        canonical_level=pooler.canonical_level,
    )
