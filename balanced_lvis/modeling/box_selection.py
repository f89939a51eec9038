"""
Detectron2's NMS and top-k selection, computed from the highest scores instead of from all scores.

At LVIS's score threshold of 1e-4, up to 1.2 million pairs of a RoI and a class pass, and Detectron2 decodes, clips and
suppresses them all to keep 300. NMS is per class and greedy by score: a box is only suppressed by a box with a higher
score. So the survivors above a score s are those that NMS leaves of the candidates above s, and s can be lowered until
there are 300 of them.

The result is bit-identical to that of Detectron2's ``fast_rcnn_inference``, in the same order:

* Candidates are cut between two different scores, and stay in Detectron2's order: by RoI, then by class.
* Boxes are decoded by the same elementwise operations, only fewer of them.
* torchvision's ``batched_nms`` chooses between two algorithms by the number of candidates, and they round differently.
  All candidates are counted, to choose the same algorithm; see :func:`_one_call_suffices`.
* The order of equal scores is that of ``Tensor.sort`` over all survivors, which may not be stable. If it isn't,
  all survivors are computed and sorted, which takes about half of Detectron2's time; see :func:`_is_certain`. Two of
  300 float32 scores are equal in a few images of a hundred.

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

# The first cut keeps about this many candidates per requested detection, each further cut 4 times as many. Dozens of
# RoIs around an object have its class, of which NMS leaves one or two.
FIRST_CUT = 8
WIDEN = 4
# The score of a cut is estimated from about this many scores. It needn't be exact, and sorting all takes longer.
SAMPLE = 1 << 16
# Below this, a sum of a few coordinates can't overflow float32.
SAFE = 1e30
# Upper bound on the error of IoUs in float32, with a wide margin: about 20 roundings of 2**-24.
IOU_ERROR = 1e-5
# Classes are suppressed together if that is faster: the overhead of a call of NMS is about that of this many pairs of
# boxes. More than BOXES_PER_CALL boxes need too large a table of pairs on a GPU.
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
    Boxes as the deltas of the predictor, decoded when they are needed.

    Attributes:
        transform: decodes elementwise.
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
    The detections of every image, as Detectron2's function of the same name.

    Args:
        boxes: (R, 4C) boxes in pixels per image, or :class:`EncodedBoxes`, which are decoded when needed.
        scores: (R, K+1) float32 per image; the last column is the background's.
        image_shapes: height and width in pixels per image, to which boxes are clipped.
        score_thresh: scores of detections are above it.
        nms_thresh: a box is dropped if its IoU with a better detection of its class is above it.
        topk_per_image: maximum number of detections per image; negative for all.

    Returns:
        ``Instances`` per image with pred_boxes, scores and pred_classes, best first; and the RoIs of the detections,
        (n,) int64 per image. As in Detectron2, RoIs with a box or score that isn't finite are removed before counting.

    Raises:
        InputError: if the shapes of an image's boxes and scores don't match.
    """
    options = score_thresh, nms_thresh, topk_per_image
    found = [_detections(*image, *options) for image in zip(boxes, scores, image_shapes)]
    return [instances for instances, _ in found], [rois for _, rois in found]


def _detections(boxes, scores, image_shape, score_thresh, nms_thresh, topk) -> tuple[Instances, Tensor]:
    boxes = DecodedBoxes(boxes) if isinstance(boxes, Tensor) else boxes
    if boxes.sets not in (1, scores.shape[1] - 1):
        raise InputError(
            f"boxes has {boxes.sets} boxes per RoI and scores has {scores.shape[1] - 1} classes and the background; "
            "pass one box per class, or one for all classes."
        )
    boxes, scores = _finite_rows(boxes, scores)
    candidates = _Candidates(boxes, scores[:, :-1], scores[:, :-1] > score_thresh, image_shape)
    found = _best(candidates, nms_thresh, topk)
    fields = {"pred_boxes": Boxes(found.boxes), "scores": found.scores, "pred_classes": found.classes}
    return Instances(image_shape, **fields), found.rois


def _finite_rows(boxes, scores):
    """Boxes and scores without RoIs that aren't finite; each value is checked only for RoIs that fail a quick check."""
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
        passing: (R, K), whether the score is above the threshold.
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
    Whether torchvision's ``batched_nms`` might not process this many candidates class by class.

    It suppresses few candidates in one call, with coordinates that are shifted by class and therefore rounded. That is
    fast, so it is called on all candidates. The limit on a GPU is that of newer versions: 25,000, before 5,000.
    """
    return 4 * count <= (4_000 if device.type == "cpu" else 100_000)


def _is_certain(scores: Tensor, topk: int) -> bool:
    """
    Whether the first ``topk`` of these survivors, in their order, are the first of all survivors.

    Args:
        scores: (n,) of survivors, sorted stably; n >= topk, and the scores of other survivors are lower.
    """
    # A GPU sorts up to 32 elements by another algorithm, which is not stable.
    if len(scores) > 32 and _sort_keeps_order(scores.device, scores.dtype):
        return True
    best = scores[: topk + 1]
    return not (best[1:] == best[:-1]).any()


@functools.cache
def _sort_keeps_order(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether ``Tensor.sort`` is stable without ``stable=True``. With AVX-512 or AVX2 it may not be."""
    few_values = torch.arange(10_000, device=device).mul(7919).remainder(64).to(dtype)
    return all(
        torch.equal(part.sort(descending=True).indices, part.sort(descending=True, stable=True).indices)
        for part in (few_values[:size] for size in (33, 300, 5_000, 10_000))
    )


def _survivors(part: _Part, nms_thresh: float) -> _Part:
    """The survivors of NMS, class by class, in the same order."""
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

    The n boxes of m runs take two calls of n**2 / 2 pairs each, instead of m calls.
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
        runs: first and last + 1 of each class to suppress.

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
    NMS of several groups at once: which boxes are kept, and which boxes' groups must be processed separately.

    The groups are shifted apart in double precision, which changes IoUs slightly, as the kernel's float32 does. So NMS
    runs with a slightly lower and a slightly higher threshold: if both keep the same boxes, so does every threshold in
    between. (By induction from the best box: a box that is kept at the lower threshold is suppressed by no kept box; a
    box that is suppressed at the higher threshold is suppressed by a kept box.)
    """
    width = boxes.max() + 1
    sides = (boxes[:, 2:] - boxes[:, :2]).amin(1)
    # Too thin for the bound on the error, or of negative area: replaced by a unit square and processed separately.
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
