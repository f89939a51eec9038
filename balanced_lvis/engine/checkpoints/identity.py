"""Whose weights a checkpoint holds."""

from __future__ import annotations

from detectron2.data import MetadataCatalog

from ...activations import activation_class
from ...modeling.decoupled import is_second_stage
from ...utils.errors import InputError
from ..step_builder import step_class


class Identity:
    """
    Whose weights a checkpoint holds; saved with it under "balanced_lvis".

    Args:
        class_names: the K class names in the order of the classifier's outputs; empty where they are not known.
        family: what scores the logits were trained for, an activation's ``family``.
        stage: what was trained, in words; only the same can be resumed.
    """

    KEY = "balanced_lvis"

    def __init__(self, class_names, family: str, stage: str):
        self.class_names = list(class_names)
        self.family = family
        self.stage = stage

    @classmethod
    def from_config(cls, cfg, evaluation: bool = False) -> Identity:
        """
        Class names of the first data set that has any, and the activation's family.

        Args:
            evaluation: look at the data sets that are tested on first, which can be of other classes than the config's
                training set.
        """
        data_sets = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
        if evaluation:
            data_sets = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
        names = (MetadataCatalog.get(name).get("thing_classes") for name in data_sets)
        family = activation_class(cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME).family
        return cls(next(filter(None, names), ()), family, stage_in_words(cfg))

    @classmethod
    def read(cls, content: dict, source: str) -> Identity | None:
        """
        What a checkpoint says about itself.

        Args:
            content: of the checkpoint.
            source: its name, for messages.

        Returns:
            None where it says nothing: it is another program's.

        Raises:
            InputError: if what it says is not what we write.
        """
        state = content.get(cls.KEY)
        if state is None:
            return None
        fields = ("class_names", "family", "stage")
        if not isinstance(state, dict) or any(field not in state for field in fields):
            raise InputError(
                f"{source}: its entry {cls.KEY!r} doesn't have {', '.join(fields)}; nothing of ours wrote it."
            )
        names = state["class_names"]
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{source}: its class names are not a list of strings.")
        return cls(names, str(state["family"]), str(state["stage"]))

    def state_dict(self) -> dict:
        return {"class_names": self.class_names, "family": self.family, "stage": self.stage}

    def load_state_dict(self, state: dict) -> None:
        """
        Check a checkpoint that is resumed from.

        Raises:
            InputError: if it is another model's.
        """
        found = Identity.read({self.KEY: state}, "The checkpoint to resume from")
        assert found is not None  # it has this entry
        self.check_class_names(found, "The checkpoint to resume from")
        theirs = f"{found.stage} with a {found.family} activation"
        ours = f"{self.stage} with a {self.family} activation"
        if theirs != ours:
            raise InputError(
                f"--resume: the last checkpoint in OUTPUT_DIR is of {theirs}, the config asks for {ours}; choose "
                "another OUTPUT_DIR, or the config that the checkpoint was trained with."
            )

    def check_class_names(self, other: Identity, source: str) -> None:
        """
        Raises:
            InputError: if both class names are known and differ, naming the first that does.
        """
        theirs, ours = other.class_names, self.class_names
        if not theirs or not ours or theirs == ours:
            return
        if len(theirs) != len(ours):
            difference = f"{len(theirs)} classes, the data set {len(ours)}"
        else:
            index = next(i for i, pair in enumerate(zip(theirs, ours)) if pair[0] != pair[1])
            difference = f"{theirs[index]!r} as class {index}, the data set {ours[index]!r}"
        raise InputError(f"{source} was trained for other classes: it has {difference}.")


def stage_in_words(cfg) -> str:
    """What a config trains: end to end, or which second stage."""
    if not is_second_stage(cfg):
        return "an end-to-end training"
    return f"a second stage ({cfg.MODEL.DECOUPLED.CLASSIFIER}{step_class(cfg).also_trains})"
