"""
Detectron2's choice of an image's detections, from the top of the scores instead of from all of them.

At LVIS's score threshold of 1e-4 up to 1.2 million pairs of a RoI and a class pass, and Detectron2 decodes, clips and
suppresses them all to keep 300. Suppression (NMS) is per class and greedy by score: a box is only ever suppressed by
one of a higher score. So the survivors above a score s are those that NMS leaves of the candidates above s, whatever
lies below, and it is enough to go down until there are 300 of them.

What comes out is what Detectron2's ``fast_rcnn_inference`` returns, to the bit and in the same order:

* Candidates are cut between two scores, never within equal ones, and stay in Detectron2's order: by RoI, then by
  class.
* Boxes are decoded by the same elementwise operations, only fewer of them.
* torchvision's ``batched_nms`` chooses between two ways by the number of candidates, and they round differently. All
  candidates are counted, so that the way is the one that it would choose for them; see :func:`_one_call_suffices`.
* Equal scores among the detections: their order is that of ``Tensor.sort`` over all survivors, which promises none.
  Where it doesn't keep equal elements in place, all survivors are computed and sorted, which takes about half of
  Detectron2's time; see :func:`_is_certain`. Two of 300 float32 scores are equal in a few images of a hundred.

Shape shorthand: R RoIs of an image, K foreground classes, C = K sets of boxes per RoI or 1 (class-agnostic).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from detectron2.layers import batched_nms
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import nms

from ..utils.errors import InputError

# The first cut is made at about this many candidates for every detection asked for, the next ones at 4 times as many
# each. Around an object dozens of RoIs carry its class, of which NMS leaves one or two.
FIRST_CUT = 8
WIDEN = 4
# The cut's score is read off a sample of about this many scores. It need not be exact, and sorting all takes longer.
SAMPLE = 1 << 16
# Below this, a sum of a few coordinates can't overflow float32.
SAFE = 1e30
# How far off IoUs in float32 are at most, with a wide margin: about 20 roundings of 2**-24.
IOU_ERROR = 1e-5
# Classes are suppressed together where that is quicker: a call of NMS takes about as long as looking at this many
# pairs of boxes. More boxes than the other figure need too large a table of pairs on a GPU.
PAIRS_PER_CALL = {"cpu": 10_000, "cuda": 20_000_000}
BOXES_PER_CALL = 8192


@dataclass(frozen=True)
class DecodedBoxes:
    """
    Attributes:
        boxes: (R, 4C) in pixels, x1 y1 x2 y2.
    """

    boxes: Tensor

    def __getitem__(self, rows: Tensor) -> DecodedBoxes:
        return DecodedBoxes(self.boxes[rows])

    @property
    def sets(self) -> int:
        """C."""
        return self.boxes.shape[1] // 4

    def decode(self) -> Tensor:
        """(R, 4C), all of them."""
        return self.boxes

    def of(self, rois: Tensor, sets: Tensor) -> Tensor:
        """(n, 4) boxes of n pairs."""
        return _pairs(self.boxes, rois, sets)

    def bound(self) -> Tensor:
        """(R,): a row whose bound is finite has only finite boxes."""
        return _norm(self.boxes)


@dataclass(frozen=True)
class EncodedBoxes:
    """
    Boxes as the predictor's deltas, to be decoded where they are needed.

    Attributes:
        transform: decodes, elementwise.
        deltas: (R, 4C).
        proposals: (R, 4) in pixels, x1 y1 x2 y2.
    """

    transform: Box2BoxTransform
    deltas: Tensor
    proposals: Tensor

    def __getitem__(self, rows: Tensor) -> EncodedBoxes:
        return replace(self, deltas=self.deltas[rows], proposals=self.proposals[rows])

    @property
    def sets(self) -> int:
        """C."""
        return self.deltas.shape[1] // 4

    def decode(self) -> Tensor:
        """(R, 4C), all of them."""
        return self.transform.apply_deltas(self.deltas, self.proposals)

    def of(self, rois: Tensor, sets: Tensor) -> Tensor:
        """(n, 4) boxes of n pairs."""
        return self.transform.apply_deltas(_pairs(self.deltas, rois, sets), self.proposals[rois])

    def bound(self) -> Tensor:
        """
        (R,): a row whose bound is finite has only finite boxes.

        With p the norm of a proposal's coordinates, its centre and sides are at most 2p, so no coordinate or
        intermediate result exceeds 2p (1 + |d| / w + e^clamp), d being the row's deltas and w the smallest weight.
        """
        p = _norm(self.proposals)
        reach = _norm(self.deltas) / min(map(abs, self.transform.weights))
        bound = 2 * p * (1 + reach + math.exp(self.transform.scale_clamp))
        return bound.where(bound < SAFE, math.inf)


def fast_rcnn_inference(
    boxes: Sequence[Tensor | DecodedBoxes | EncodedBoxes],
    scores: Sequence[Tensor],
    image_shapes: Sequence[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[Tensor]]:
    """
    The detections of every image, as Detectron2's function of this name finds them.

    Args:
        boxes: per image, (R, 4C) boxes in pixels, or :class:`EncodedBoxes`, which are decoded as needed.
        scores: per image, (R, K+1) float32; the last column is the background's.
        image_shapes: per image, height and width in pixels, to which boxes are clipped.
        score_thresh: what a detection's score must exceed.
        nms_thresh: IoU with a better detection of its class above which a box is dropped.
        topk_per_image: detections per image at most; negative for all.

    Returns:
        ``Instances`` per image with pred_boxes, scores and pred_classes, best first; and per image the detections'
        RoIs, (n,) int64. As in Detectron2, RoIs with a box or score that isn't finite are left out, and not counted.

    Raises:
        InputError: if the shapes of an image's boxes and scores don't go together.
    """
    options = score_thresh, nms_thresh, topk_per_image
    found = [_detections(*image, *options) for image in zip(boxes, scores, image_shapes)]
    return [instances for instances, _ in found], [rois for _, rois in found]


def _detections(boxes, scores, image_shape, score_thresh, nms_thresh, topk) -> tuple[Instances, Tensor]:
    boxes = DecodedBoxes(boxes) if isinstance(boxes, Tensor) else boxes
    if boxes.sets not in (1, scores.shape[1] - 1):
        raise InputError(
            f"boxes hold {boxes.sets} boxes per RoI and scores {scores.shape[1] - 1} classes and the background; "
            "there must be one box for every class or one for all."
        )
    boxes, scores = _finite_rows(boxes, scores)
    candidates = _Candidates(boxes, scores[:, :-1], scores[:, :-1] > score_thresh, image_shape)
    found = _best(candidates, nms_thresh, topk)
    fields = {"pred_boxes": Boxes(found.boxes), "scores": found.scores, "pred_classes": found.classes}
    return Instances(image_shape, **fields), found.rois


def _finite_rows(boxes, scores):
    """Boxes and scores without the RoIs of which any isn't finite; looked at one by one only where one might not be."""
    doubtful = ~(torch.isfinite(boxes.bound()) & torch.isfinite(_norm(scores)))
    rows = doubtful.nonzero()[:, 0]
    if not len(rows):
        return boxes, scores
    finite = ~doubtful
    finite[rows] = torch.isfinite(boxes[rows].decode()).all(1) & torch.isfinite(scores[rows]).all(1)
    return boxes[finite], scores[finite]


class _Part(NamedTuple):
    """Some candidates, by RoI and then by class: boxes (n, 4), clipped; scores, classes and RoIs (n,)."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    rois: Tensor

    def take(self, index: Tensor) -> _Part:
        return _Part(*(field[index] for field in self))


@dataclass(frozen=True)
class _Candidates:
    """
    Attributes:
        boxes: of all RoIs.
        scores: (R, K).
        passing: (R, K), whether the score does.
        image_shape: height and width in pixels.
    """

    boxes: DecodedBoxes | EncodedBoxes
    scores: Tensor
    passing: Tensor
    image_shape: tuple[int, int]

    def all(self) -> _Part:
        return self._part(self.passing)

    def above(self, score: Tensor) -> _Part:
        return self._part(self.passing & (self.scores > score))

    def _part(self, mask: Tensor) -> _Part:
        rois, classes = mask.nonzero().unbind(1)
        boxes = Boxes(self.boxes.of(rois, classes if self.boxes.sets > 1 else torch.zeros_like(classes)))
        boxes.clip(self.image_shape)
        return _Part(boxes.tensor, self.scores[rois, classes], classes, rois)

    def score_of_rank(self, rank: int) -> Tensor:
        """A scalar that about ``rank`` scores exceed, from every n-th RoI; RoIs come sorted by objectness."""
        step = max(1, self.scores.numel() // SAMPLE)
        sample = self.scores[::step].flatten()
        return sample.topk(min(max(1, rank // step), len(sample)), sorted=False).values.min()


def _best(candidates: _Candidates, nms_thresh: float, topk: int) -> _Part:
    """The best survivors, best first; ``topk`` of them, or all if it is negative."""
    count = int(candidates.passing.count_nonzero())
    if _one_call_suffices(count, candidates.scores.device):
        part = candidates.all()
        keep = batched_nms(part.boxes, part.scores, part.classes, nms_thresh)
        return part.take(keep[:topk] if topk >= 0 else keep)
    rank = FIRST_CUT * max(topk, 32)
    while topk >= 0 and rank < count / 2:
        survivors = _survivors(candidates.above(candidates.score_of_rank(rank)), nms_thresh)
        if len(survivors.scores) >= topk:
            scores, order = survivors.scores.sort(descending=True, stable=True)
            if _is_certain(scores, topk):
                return survivors.take(order[:topk])
            break
        rank *= WIDEN
    survivors = _survivors(candidates.all(), nms_thresh)
    order = survivors.scores.sort(descending=True).indices
    return survivors.take(order[:topk] if topk >= 0 else order)


def _one_call_suffices(count: int, device: torch.device) -> bool:
    """
    Whether torchvision's ``batched_nms`` might not go class by class for this many candidates.

    Few candidates it moves apart by class, which rounds their coordinates, and suppresses in one call. That is quick,
    so that it is called on all; on a GPU also where only its newer versions do so (up to 25,000, before up to 5,000).
    """
    return 4 * count <= (4_000 if device.type == "cpu" else 100_000)


def _is_certain(scores: Tensor, topk: int) -> bool:
    """
    Whether the first ``topk`` of these scores' order are the first of all survivors', which may be more.

    Args:
        scores: (n,) of survivors, sorted with equal ones in place; n >= topk, and all others' are lower than the last.
    """
    # A GPU sorts up to 32 elements in a way of their own, which doesn't keep equal ones in place.
    if len(scores) > 32 and _sort_keeps_order(scores.device, scores.dtype):
        return True
    best = scores[: topk + 1]
    return not (best[1:] == best[:-1]).any()


@functools.cache
def _sort_keeps_order(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether ``Tensor.sort`` leaves equal elements in place unasked. On processors with AVX-512 or AVX2 it may not."""
    few_values = torch.arange(10_000, device=device).mul(7919).remainder(64).to(dtype)
    return all(
        torch.equal(part.sort(descending=True).indices, part.sort(descending=True, stable=True).indices)
        for part in (few_values[:size] for size in (33, 300, 5_000, 10_000))
    )


def _survivors(part: _Part, nms_thresh: float) -> _Part:
    """What NMS leaves, class by class, in the same order."""
    classes, order = part.classes.sort(stable=True)
    boxes, scores = part.boxes[order], part.scores[order]
    stops = torch.unique_consecutive(classes, return_counts=True)[1].cumsum(0).tolist()
    pairs_per_call = PAIRS_PER_CALL.get(boxes.device.type, PAIRS_PER_CALL["cuda"])
    kept = torch.zeros_like(classes, dtype=torch.bool)
    for runs in _batches(list(zip([0, *stops], stops)), pairs_per_call):
        for start, stop in _suppress_jointly(kept, boxes, scores, classes, runs, nms_thresh):
            kept[start:stop] = False
            kept[start + nms(boxes[start:stop], scores[start:stop], nms_thresh)] = True
    return part.take(order[kept].sort().values)


def _batches(runs: list[tuple[int, int]], pairs_per_call: int):
    """
    Lists of consecutive runs to suppress together.

    All n boxes of m runs take n**2 / 2 pairs in either of two calls, instead of m calls.
    """
    batch: list[tuple[int, int]] = []
    for start, stop in runs:
        size = stop - batch[0][0] if batch else 0
        if size > BOXES_PER_CALL or size**2 > pairs_per_call * (len(batch) + 1):
            yield batch
            batch = []
        batch.append((start, stop))
    if batch:
        yield batch


def _suppress_jointly(kept, boxes, scores, classes, runs, nms_thresh) -> list[tuple[int, int]]:
    """
    NMS of some classes together.

    Args:
        kept: (n,) bool, filled in.
        boxes, scores, classes: (n, 4), (n,), (n,), sorted by class.
        runs: first and last + 1 of every class that is meant.

    Returns:
        the runs for which ``kept`` isn't certain.
    """
    if len(runs) == 1:
        return runs
    first = runs[0][0]
    part = slice(first, runs[-1][1])
    kept[part], doubtful = _bracketed(boxes[part], scores[part], classes[part] - classes[first], nms_thresh)
    flags = doubtful.tolist()
    return [(start, stop) for start, stop in runs if any(flags[start - first : stop - first])]


def _bracketed(boxes, scores, groups, nms_thresh) -> tuple[Tensor, Tensor]:
    """
    NMS of several groups at once: which boxes stay, and which boxes' groups have to be done by themselves.

    The groups are moved apart in double precision, which shifts IoUs a little, as the kernel's own float32 does. So
    NMS runs with a threshold a little lower and one a little higher: where both keep the same, so does every set of
    decisions between them. (By induction from the best box: one that stays at the lower threshold is suppressed by no
    box that stays; one that falls at the higher is suppressed by such a box.)
    """
    width = boxes.max() + 1
    sides = (boxes[:, 2:] - boxes[:, :2]).amin(1)
    # Too thin for the bound on the error, or of negative area: set aside, a unit square in its place.
    thin = sides < 1e-9 * width * (groups[-1] + 1)
    boxes = boxes.where(~thin[:, None], boxes.new_tensor([0.0, 0, 1, 1]))
    apart = boxes.double() + (groups.double() * width.double())[:, None]
    thresholds = nms_thresh - IOU_ERROR, max(nms_thresh + IOU_ERROR, 0)
    low, high = torch.zeros(2, len(boxes), dtype=torch.bool, device=boxes.device)
    for kept, threshold in zip((low, high), thresholds):
        kept[nms(apart, scores.double(), threshold)] = True
    return low, (low != high) | thin


def _norm(x: Tensor) -> Tensor:
    """(R, n) to (R,): finite only if the whole row is. One pass, unlike ``isfinite().all()``."""
    return torch.linalg.vector_norm(x, dim=1, dtype=torch.promote_types(x.dtype, torch.float32))


def _pairs(x: Tensor, rois: Tensor, sets: Tensor) -> Tensor:
    """(R, 4C) to the n pairs' (n, 4)."""
    return x.unflatten(1, (-1, 4))[rois, sets]
