"""Views of images, objects and false positives, drawn until they would exceed the size of the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..evaluation.backends import GroundTruth
from ..evaluation.detection_store import Detections
from .examples import FalseView, ImageView, ObjectView, Request
from .numbers import page_json
from .outcomes import RunOutcomes
from .photos import Photos
from .views import CROP_PIXELS, CROP_UNITS, IMAGE_PIXELS, IMAGE_UNITS, Mark, Window, draw_view, window_around

MOST_MARKS = 60  # of one run in a whole image


@dataclass
class Drawn:
    """
    Views of the page.

    Attributes:
        views: all views, as :func:`.views.draw_view` gives them.
        places: index in ``views`` of each request that was drawn.
        sizes: bytes of each view in the page.
        left_out: number of requests that are not in the page because of the size.
    """

    views: list[dict] = field(default_factory=list)
    places: dict[Request, int] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    left_out: int = 0

    def indices(self, requests: Iterable[Request]) -> list[int]:
        """Indices of those requests that were drawn."""
        return [self.places[request] for request in requests if request in self.places]

    def add(self, request: Request, view: dict, size: int) -> None:
        """Add the view of a request, of a number of bytes."""
        self.places[request] = len(self.views)
        self.views.append(view)
        self.sizes.append(size)

    def remove_last(self, size: int) -> None:
        """Leave out the last views, of together at least a number of bytes, as far as there are any."""
        while size > 0 and self.views:
            self.places.popitem()
            self.views.pop()
            size -= self.sizes.pop()
            self.left_out += 1


class Artist:
    """
    Draws views of one task.

    Args:
        truth: ground truth.
        photos: its images.
        detections: stored detections of each run.
        outcomes: of each run.
        with_masks: whether masks are outlined, in addition to boxes.
    """

    def __init__(
        self,
        truth: GroundTruth,
        photos: Photos,
        detections: Sequence[Detections],
        outcomes: Sequence[RunOutcomes],
        with_masks: bool,
    ):
        self._truth, self._photos, self._with_masks = truth, photos, with_masks
        self._detections, self._outcomes = detections, outcomes
        self._matches = [own.matches() for own in outcomes]
        self._found = [own.found() for own in outcomes]
        self._errors = [_best_errors(own) for own in outcomes]
        self._of_image = _Groups(truth.images, len(truth.image_ids))
        self._shown_of_image = [_Groups(np.where(own.shown, own.images, -1), len(truth.image_ids)) for own in outcomes]

    def image_of(self, request: Request) -> int:
        """Number of the image of a request."""
        if isinstance(request, ImageView):
            return request.image
        if isinstance(request, ObjectView):
            return int(self._truth.images[request.object])
        return int(self._outcomes[request.run].images[request.detection])

    def draw(self, requests: Iterable[Request], drawn: Drawn, limit: int) -> None:
        """
        Draw requests until the views exceed a size; all further ones are counted as left out.

        Args:
            requests: what to draw. What has been drawn is skipped, and so are images that can't be read.
            drawn: views so far, which are added to.
            limit: bytes of all views and of their indices in the lists of the page.
        """
        full, total = False, sum(drawn.sizes)
        uses = Counter(requests)  # in the order of the requests; each is an index in the lists of the page
        for request in uses:
            if request in drawn.places or not self._photos.exists(self.image_of(request)):
                continue
            view = None if full else self.view(request)
            size = 0 if view is None else len(page_json(view)) + 1 + uses[request] * (len(str(len(drawn.views))) + 1)
            full = full or total + size > limit
            if full:
                drawn.left_out += 1
            elif view is not None:
                drawn.add(request, view, size)
                total += size

    def view(self, request: Request) -> dict | None:
        """A view, with what became of its object or detection; None if the image can't be read."""
        image = self.image_of(request)
        pixels = self._photos.pixels(image)
        if pixels is None:
            return None
        height, width = pixels.shape[:2]
        about: dict = {"image": self._photos.name(image)}
        if isinstance(request, ImageView):
            window = Window(0, 0, width, height)
            view = draw_view(pixels, window, self._marks_of_image(image), IMAGE_PIXELS, IMAGE_UNITS)
            return {**view, **about, "runs": [self._counts(run, image) for run in range(len(self._outcomes))]}
        if isinstance(request, ObjectView):
            marks = self._marks_of_object(request.object)
            about |= {"c": int(self._truth.categories[request.object]), "runs": self._fate(request.object)}
        else:
            marks = self._marks_of_false(request)
            own = self._outcomes[request.run]
            about |= {"c": int(own.categories[request.detection]), "run": request.run}
            about |= {"s": round(float(own.scores[request.detection]), 4), "e": int(own.errors[request.detection])}
        window = window_around([mark.box for mark in marks], height, width)
        return {**draw_view(pixels, window, marks, CROP_PIXELS, CROP_UNITS), **about}

    def _counts(self, run: int, image: int) -> list[int]:
        """True positives, false positives and missed objects in an image."""
        own = self._outcomes[run]
        true = own.true[self._shown_of_image[run][image]]
        missed = ~self._found[run][self._of_image[image]]
        return [int(true.sum()), int((~true).sum()), int(missed.sum())]

    def _fate(self, index: int) -> list[dict]:
        """For each run, the score at which an object was found, or the error of the best detection about it."""
        fates: list[dict] = []
        for own, matches, found, errors in zip(self._outcomes, self._matches, self._found, self._errors):
            if found[index]:
                fates.append({"s": round(float(own.scores[matches[index]]), 4)})
            elif (error := errors[index]) >= 0:
                fates.append({"e": int(own.errors[error]), "c": int(own.categories[error])})
            else:
                fates.append({})
        return fates

    def _marks_of_image(self, image: int) -> list[Mark]:
        marks = [self._mark_of_object(index) for index in self._of_image[image].tolist()]
        for run, groups in enumerate(self._shown_of_image):
            own = groups[image]
            best = own[np.argsort(-self._outcomes[run].scores[own], kind="stable")][:MOST_MARKS]
            marks += [self._mark_of_detection(run, index) for index in best.tolist()]
        return marks

    def _marks_of_object(self, index: int) -> list[Mark]:
        """The object, and of each run the detection that found it, or the best detection about it."""
        marks = [self._mark_of_object(index)]
        for run, (matches, found, errors) in enumerate(zip(self._matches, self._found, self._errors)):
            detection = matches[index] if found[index] else errors[index]
            if detection >= 0:
                marks.append(self._mark_of_detection(run, int(detection)))
        return marks

    def _marks_of_false(self, request: FalseView) -> list[Mark]:
        """The detection, and the object that the error is about."""
        marks = [self._mark_of_detection(request.run, request.detection)]
        about = int(self._outcomes[request.run].objects[request.detection])
        return [*marks, self._mark_of_object(about)] if about >= 0 else marks

    def _mark_of_object(self, index: int) -> Mark:
        annotation = self._truth.annotations[index]
        rle = self._truth.mask(index) if self._with_masks else None
        return Mark(-1, int(self._truth.categories[index]), None, None, annotation["bbox"], rle)

    def _mark_of_detection(self, run: int, index: int) -> Mark:
        own, detections = self._outcomes[run], self._detections[run]
        row = int(own.rows[index])
        rle = next(detections.rles(np.array([row]))) if self._with_masks else None
        category, score, true = int(own.categories[index]), float(own.scores[index]), bool(own.true[index])
        return Mark(run, category, score, true, detections.boxes[row].tolist(), rle)


class _Groups:
    """Indices of elements by group; those of group -1 are in none."""

    def __init__(self, groups: np.ndarray, number: int):
        self._order = np.argsort(groups, kind="stable")
        self._bounds = np.searchsorted(groups[self._order], np.arange(number + 1))

    def __getitem__(self, group: int) -> np.ndarray:
        return self._order[self._bounds[group] : self._bounds[group + 1]]


def _best_errors(outcomes: RunOutcomes) -> np.ndarray:
    """(G,) for each object the shown false positive about it with the highest score; -1 without one."""
    best = np.full(len(outcomes.object_images), -1, np.int64)
    chosen = np.flatnonzero(outcomes.shown & ~outcomes.true & (outcomes.objects >= 0))
    chosen = chosen[np.argsort(outcomes.scores[chosen], kind="stable")]
    best[outcomes.objects[chosen]] = chosen  # of several, the last is kept: the highest score
    return best
