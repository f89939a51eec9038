"""The table of classification methods, used by the experiment, the tests and docs/classification.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassificationMethod:
    """
    Attributes:
        key: name of its config, without folder and ``.yaml``.
        title: name in tables and plots.
        first_stage: key of the method whose model it starts from; None for end-to-end training.
        evaluates_only: whether the model of ``first_stage`` is evaluated with another calibration, without training.
    """

    key: str
    title: str
    first_stage: str | None = None
    evaluates_only: bool = False


METHODS = {
    method.key: method
    for method in (
        # The methods of Table 1 of the paper in its order, with ldam_drw and logit_adjustment, which it lacks.
        ClassificationMethod("softmax", "Softmax"),
        ClassificationMethod("class_balanced_weighting", "Class-balanced weighting"),
        ClassificationMethod("class_balanced_sampling", "Class-balanced sampling"),
        ClassificationMethod("focal", "Focal loss"),
        ClassificationMethod("class_balanced", "Class-Balanced loss"),
        ClassificationMethod("ldam", "LDAM"),
        ClassificationMethod("ldam_drw", "LDAM-DRW"),
        ClassificationMethod("eql", "Equalization Loss"),
        ClassificationMethod("balanced_softmax", "Balanced Softmax"),
        ClassificationMethod("decoupled_balanced_softmax", "Decoupled Balanced Softmax", "softmax"),
        ClassificationMethod("balms", "BALMS (with Meta Sampler)", "softmax"),
        ClassificationMethod("logit_adjustment", "Softmax with logit adjustment", "softmax", evaluates_only=True),
    )
}
