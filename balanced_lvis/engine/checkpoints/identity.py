"""Classes, activation, stage and kinds of heads of the model in a checkpoint."""

from __future__ import annotations

from detectron2.data import MetadataCatalog

from ...activations import activation_class
from ...activations.base import LINEAR
from ...activations.normalized_linear import normalized_kind
from ...modeling.box_predictor import activation_from_config
from ...modeling.decoupled import is_second_stage
from ...utils.errors import InputError
from ..step_builder import step_class

PLAIN = "plain"  # Detectron2's mask predictor


class Identity:
    """
    Classes, activation, stage and kinds of heads of the model in a checkpoint, which has them under "balanced_lvis".

    Args:
        class_names: the K class names in the order of the classifier's outputs; empty if unknown.
        family: ``family`` of the activation that the classifier was trained with.
        stage: description of what was trained. Only a run of the same stage can be resumed.
        classifier: kind of classifier, :attr:`~balanced_lvis.activations.Activation.classifier_kind`.
        mask_predictor: "plain", or a description of a normalized one; empty without masks. Like classifiers, those of
            all kinds can have tensors of the same names and shapes. Checkpoints without both entries have the defaults.
    """

    KEY = "balanced_lvis"

    def __init__(self, class_names, family: str, stage: str, classifier: str = LINEAR, mask_predictor: str = PLAIN):
        self.class_names = list(class_names)
        self.family = family
        self.stage = stage
        self.classifier = classifier
        self.mask_predictor = mask_predictor

    @classmethod
    def from_config(cls, cfg, evaluation: bool = False) -> Identity:
        """
        Identity of a config's model: class names of the first dataset that has them, family, stage and kinds of heads.

        Args:
            evaluation: prefer test datasets, whose classes may differ from those of the training set.
        """
        data_sets = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
        if evaluation:
            data_sets = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
        names = (MetadataCatalog.get(name).get("thing_classes") for name in data_sets)
        return cls.of_model(cfg, next(filter(None, names), ()), stage_in_words(cfg))

    @classmethod
    def of_model(cls, cfg, class_names, stage: str) -> Identity:
        """Identity with the family and the kinds of heads of a config's model."""
        family = activation_class(cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME).family
        return cls(class_names, family, stage, *kinds_of_heads(cfg))

    @classmethod
    def read(cls, content: dict, source: str) -> Identity | None:
        """
        Identity stored in a checkpoint.

        Args:
            content: content of the checkpoint.
            source: name of the checkpoint, for messages.

        Returns:
            the identity; None if the checkpoint has none, as those of other programs.

        Raises:
            InputError: if the entry is invalid.
        """
        state = content.get(cls.KEY)
        if state is None:
            return None
        fields = ("class_names", "family", "stage")
        if not isinstance(state, dict) or any(field not in state for field in fields):
            raise InputError(
                f"{source}: its entry {cls.KEY!r} doesn't have {', '.join(fields)}; balanced_lvis did not write it."
            )
        names = state["class_names"]
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{source}: its class names are not a list of strings.")
        kinds = (str(state.get("classifier", LINEAR)), str(state.get("mask_predictor", PLAIN)))
        return cls(names, str(state["family"]), str(state["stage"]), *kinds)

    def state_dict(self) -> dict:
        return {
            "class_names": self.class_names,
            "family": self.family,
            "stage": self.stage,
            "classifier": self.classifier,
            "mask_predictor": self.mask_predictor,
        }

    def load_state_dict(self, state: dict) -> None:
        """
        Check that a checkpoint to resume from has the same classes, family, stage and kinds of heads.

        Raises:
            InputError: if it differs.
        """
        found = Identity.read({self.KEY: state}, "The checkpoint to resume from")
        assert found is not None  # the entry was just given
        self.check_class_names(found, "The checkpoint to resume from")
        theirs = f"{found.stage} with a {found.family} activation"
        current = f"{self.stage} with a {self.family} activation"
        if theirs != current:
            raise InputError(
                f"--resume: the last checkpoint in OUTPUT_DIR is of {theirs}, but the config is of {current}; choose "
                "another OUTPUT_DIR, or the config that the checkpoint was trained with."
            )
        self.check_heads(found, "The checkpoint to resume from")

    def check_heads(self, other: Identity, source: str, classifier: bool = True) -> None:
        """
        Args:
            other: identity of the checkpoint.
            source: name of the checkpoint, for messages.
            classifier: whether its classifier is used.

        Raises:
            InputError: if its classifier or mask predictor is of another kind.
        """
        pairs = [("mask predictor", other.mask_predictor, self.mask_predictor, "MODEL.ROI_MASK_HEAD.TEMPERATURE")]
        if classifier:
            pairs.append(("classifier", other.classifier, self.classifier, "MODEL.ROI_BOX_HEAD.ACTIVATION"))
        for part, theirs, expected, key in pairs:
            if theirs and expected and theirs != expected:
                raise InputError(
                    f"{source} has a {part} that is {theirs}, but that of the config is {expected}: the same weights "
                    f"would give other predictions. Use the config that the checkpoint was trained with, or its {key}."
                )

    def check_class_names(self, other: Identity, source: str) -> None:
        """
        Raises:
            InputError: if both lists of class names are known and differ; the message names the first difference.
        """
        theirs, expected = other.class_names, self.class_names
        if not theirs or not expected or theirs == expected:
            return
        if len(theirs) != len(expected):
            difference = f"{len(theirs)} classes, but the dataset has {len(expected)}"
        else:
            index = next(i for i, pair in enumerate(zip(theirs, expected)) if pair[0] != pair[1])
            difference = f"{theirs[index]!r} as class {index}, but the dataset has {expected[index]!r}"
        raise InputError(
            f"{source} was trained for other classes: it has {difference}. Use a checkpoint and a dataset "
            "with the same classes, in the same order."
        )


def kinds_of_heads(cfg) -> tuple[str, str]:
    """Kinds of the classifier and of the mask predictor of a config's model, as in :class:`Identity`."""
    temperature = cfg.MODEL.ROI_MASK_HEAD.TEMPERATURE
    masks = normalized_kind(temperature) if temperature else PLAIN
    return activation_from_config(cfg).classifier_kind, masks if cfg.MODEL.MASK_ON else ""


def stage_in_words(cfg) -> str:
    """Description of what a config trains: end to end, or a second stage."""
    if not is_second_stage(cfg):
        return "an end-to-end training"
    return f"a second stage ({cfg.MODEL.DECOUPLED.CLASSIFIER}{step_class(cfg).also_trains})"
