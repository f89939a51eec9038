"""
Combinations of an activation, a sampler, a second stage and a calibration.

All of them are built from the methods of the comparison. Their runs share its folders wherever the configs are equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..activations import activation_class
from ..modeling.box_predictor import activation_from_config
from .comparison_runs import new_run
from .methods import END_TO_END, SECOND_STAGE, TEST_TIME, Method
from .runs import PreparationRun, Run

FOLDER = "combinations"  # of the runs that are not part of the comparison
# Samplers besides that of a method's config.
SAMPLERS: dict[str, tuple[str, ...]] = {
    "every_image_once": ("DATALOADER.SAMPLER_TRAIN", "TrainingSampler"),
    "class_aware": ("DATALOADER.SAMPLER_TRAIN", "ClassAwareTrainingSampler"),
    "instance_aware": ("DATALOADER.SAMPLER_TRAIN", "InstanceAwareRepeatFactorTrainingSampler"),
}
_SAMPLER_TITLES = {
    "every_image_once": "every image once",
    "class_aware": "class-aware sampling",
    "instance_aware": "instance-aware repeat factors",
}
_IN_FEATURES = 4  # any number: only the kind and the number of outputs of a classifier are compared


@dataclass(frozen=True)
class Combination:
    """
    Attributes:
        training: key of an end-to-end method, which gives the activation, and the sampler unless there is another.
        sampler: key of :data:`SAMPLERS`; None for that of the method's config.
        second_stage: key of a second-stage method that continues from the trained model; None if there is none.
        calibration: key of a test-time method whose calibration the model is evaluated with; None if there is none.
    """

    training: str
    sampler: str | None = None
    second_stage: str | None = None
    calibration: str | None = None

    @property
    def key(self) -> str:
        """Unique name, also of its folder."""
        return "+".join(filter(None, (self.training, self.sampler, self.second_stage, self.calibration)))


class Combinations:
    """
    The combinations of the parts of a table of methods, and their runs.

    Args:
        methods: {key: method}, first stages included. Their end-to-end methods, second stages and calibrations are the
            parts.
        files: {key: config of the method}.
        output: folder of the comparison.
        overrides: ``KEY VALUE`` pairs, for all runs.
    """

    def __init__(
        self, methods: Mapping[str, Method], files: Mapping[str, Path], output: Path, overrides: Sequence[str] = ()
    ):
        self._methods, self._files, self._output, self._overrides = methods, files, output, tuple(overrides)
        self._runs: dict[str, Run] = {}

    def methods_of(self, group: str) -> list[str]:
        """Keys of the methods of one of :data:`.methods.GROUPS`; at test time, of those that only calibrate."""
        keys = [key for key, method in self._methods.items() if method.group == group]
        return [key for key in keys if group != TEST_TIME or self._only_calibrates(key)]

    def _only_calibrates(self, key: str) -> bool:
        cfg, first = self._config(key), self._config(self._methods[key].first_stage or key)
        same = cfg.MODEL.ROI_HEADS == first.MODEL.ROI_HEADS and cfg.TEST == first.TEST
        return same and bool(cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME)

    def trained(self) -> list[Combination]:
        """The end-to-end methods."""
        return [Combination(key) for key in self.methods_of(END_TO_END)]

    def with_samplers(self, combinations: Sequence[Combination]) -> list[Combination]:
        """End-to-end methods, each with every other sampler that differs from its own."""
        return [
            replace(combination, sampler=sampler)
            for combination in combinations
            for sampler, words in SAMPLERS.items()
            if self._is_another(words[1], self._config(combination.training).DATALOADER)
        ]

    @staticmethod
    def _is_another(sampler: str, loader) -> bool:
        # With a threshold of 0, all repeat factors are 1.
        return sampler != loader.SAMPLER_TRAIN and (loader.REPEAT_THRESHOLD > 0 or "RepeatFactor" not in sampler)

    def with_second_stages(self, combinations: Sequence[Combination]) -> list[Combination]:
        """
        Combinations without a second stage, each with every second stage that fits.

        A classifier that is kept must have the outputs that the second stage trains, for scores of the same family.
        """
        return [
            replace(combination, second_stage=key)
            for combination in combinations
            for key in self.methods_of(SECOND_STAGE)
            if self._fits(self._config(combination.training), self._config(key))
        ]

    def with_calibrations(self, combinations: Sequence[Combination]) -> list[Combination]:
        """Combinations, each with every calibration whose options are for scores of its family."""
        return [
            replace(combination, calibration=key)
            for combination in combinations
            for key in self.methods_of(TEST_TIME)
            if _family(self._config(key)) == _family(self._config(combination.second_stage or combination.training))
        ]

    @staticmethod
    def _fits(first, second) -> bool:
        if second.MODEL.DECOUPLED.CLASSIFIER == "retrain":
            return True
        return _family(first) == _family(second) and _classifier(first) == _classifier(second)

    def method(self, combination: Combination) -> str | None:
        """The key of the method that a combination equals, if there is one."""
        if combination.sampler:
            return None
        key: str | None = combination.training
        for part in (combination.second_stage, combination.calibration):
            if part is not None:
                key = part if self._methods[part].first_stage == key else None
        return key

    def title(self, combination: Combination) -> str:
        """Name in tables."""
        parts = [self._methods[combination.training].title]
        if combination.sampler:
            parts.append(_SAMPLER_TITLES[combination.sampler])
        if combination.second_stage:
            parts.append(f"second stage {self._methods[combination.second_stage].title}")
        if combination.calibration:
            parts.append(self._methods[combination.calibration].title)
        return " + ".join(parts)

    def model_run(self, combination: Combination, seed: int) -> Run:
        """The run that trains the model of a combination, before any calibration."""
        if combination.second_stage is None:
            words = SAMPLERS[combination.sampler] if combination.sampler else ()
            return self._run(replace(combination, calibration=None), seed, combination.training, words, None)
        first = self.model_run(replace(combination, second_stage=None, calibration=None), seed)
        return self._run(replace(combination, calibration=None), seed, combination.second_stage, (), first)

    def run(self, combination: Combination, seed: int) -> Run:
        """The run that evaluates a combination on the validation set."""
        model = self.model_run(combination, seed)
        return model if combination.calibration is None else self._evaluation(combination, seed, model, "", ())

    def run_on(self, combination: Combination, seed: int, split: str, words: Sequence[str]) -> Run:
        """
        The run that evaluates a combination on another dataset.

        Args:
            combination: the combination.
            seed: seed of its training.
            split: name of the folder of these evaluations.
            words: ``KEY VALUE`` pairs that select the dataset.
        """
        return self._evaluation(combination, seed, self.model_run(combination, seed), split, tuple(words))

    def runs(self) -> list[Run]:
        """All runs so far."""
        return list(self._runs.values())

    def _run(self, combination: Combination, seed: int, method: str, words: tuple[str, ...], after: Run | None) -> Run:
        name = f"{self.method(combination) or f'{FOLDER}/{combination.key}'}/seed_{seed}"
        return self._once(name, seed, self._files[method], words, after, False)

    def _evaluation(self, combination: Combination, seed: int, model: Run, split: str, words: tuple[str, ...]) -> Run:
        if combination.calibration and (tool := self._methods[combination.calibration].preparation):
            model = PreparationRun.of(model, tool)
        method = None if split else self.method(combination)
        if method:  # the comparison's own run of it
            return self._once(f"{method}/seed_{seed}", seed, self._files[method], words, model, True)
        key = combination.calibration
        calibration = _chosen_calibration(self._config(key)) if key else ()
        name = f"{FOLDER}/{split}/{combination.key}" if split else f"{FOLDER}/{combination.key}"
        trained = combination.second_stage or combination.training
        sampler = SAMPLERS[combination.sampler] if combination.sampler and not combination.second_stage else ()
        words = (*sampler, *calibration, *words)
        return self._once(f"{name}/seed_{seed}", seed, self._files[trained], words, model, True)

    def _once(
        self, name: str, seed: int, file: Path, words: tuple[str, ...], after: Run | None, evaluates: bool
    ) -> Run:
        if name not in self._runs:
            words = (*self._overrides, *words)
            self._runs[name] = new_run(name, seed, file, self._output, words, after, evaluates)
        return self._runs[name]

    def _config(self, key: str):
        return Run(key, key, self._files[key], self._output, self._overrides).config()


def _family(cfg) -> str:
    return activation_class(cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME).family


def _classifier(cfg) -> tuple:
    classifier = activation_from_config(cfg).classifier(_IN_FEATURES)
    return type(classifier), {key: tuple(value.shape) for key, value in classifier.state_dict().items()}


def _chosen_calibration(cfg) -> tuple[str, ...]:
    """The calibration of a config with its options, as overrides."""
    node = cfg.MODEL.ROI_BOX_HEAD.CALIBRATION
    prefix = "MODEL.ROI_BOX_HEAD.CALIBRATION"
    options = node.get(node.NAME.upper(), {})
    pairs = [(f"{prefix}.NAME", node.NAME), *((f"{prefix}.{node.NAME.upper()}.{k}", v) for k, v in options.items())]
    return tuple(str(word) for pair in pairs for word in pair)
