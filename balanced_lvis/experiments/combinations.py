"""
Combinations of an activation, a sampler, a second stage and a calibration.

All of them are built from the methods of the comparison. Their runs share its folders wherever the configs are equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detectron2.config import CfgNode

from ..activations import activation_class
from ..calibration.base import misfit
from ..config import load_config
from ..config.calibration_keys import calibration_keys
from ..config_files.keys import get
from ..data.copy_paste import check_copy_paste
from ..modeling.box_predictor import activation_from_config
from ..utils.errors import InputError
from ..utils.keyword_options import chosen_options
from .comparison_runs import new_run
from .methods import END_TO_END, SECOND_STAGE, TEST_TIME, Method
from .runs import PreparationRun, Run, same_run

FOLDER = "combinations"  # of the runs that are not part of the comparison
SEARCH, VALIDATION = "search", "validation"  # folders of evaluations
_SAMPLER, _THRESHOLD = "DATALOADER.SAMPLER_TRAIN", "DATALOADER.REPEAT_THRESHOLD"
_WITHOUT_THRESHOLD = ("TrainingSampler", "ClassAwareTrainingSampler")  # samplers that don't read _THRESHOLD
_IN_FEATURES = 4  # any number: only the kind and the number of outputs of a classifier are compared


@dataclass(frozen=True)
class Sampler:
    """
    Another choice of training images, or of their objects, than that of a method's config.

    Attributes:
        title: name in tables.
        words: ``KEY VALUE`` pairs.
        source: key of the method whose config has the values of ``keys``; None if there are none.
        keys: further config keys, or nodes of keys.
    """

    title: str
    words: tuple[str, ...] = ()
    source: str | None = None
    keys: tuple[str, ...] = ()


SAMPLERS = {
    "every_image_once": Sampler("every image once", (_SAMPLER, "TrainingSampler")),
    "repeat_factor": Sampler("repeat factors", source="rfs", keys=(_SAMPLER, _THRESHOLD)),
    "instance_aware": Sampler("instance-aware repeat factors", source="irfs", keys=(_SAMPLER, _THRESHOLD)),
    "class_aware": Sampler("class-aware sampling", (_SAMPLER, "ClassAwareTrainingSampler")),
    "copy_paste": Sampler("copy-paste", source="copy_paste", keys=("INPUT.COPY_PASTE",)),
}


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
        search_seed: seed of the models that are ranked.
        search_split: ``KEY VALUE`` pairs that select the dataset that they are ranked on.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        files: Mapping[str, Path],
        output: Path,
        overrides: Sequence[str] = (),
        search_seed: int = 0,
        search_split: Sequence[str] = (),
    ):
        self._methods, self._files, self._output, self._overrides = methods, files, output, tuple(overrides)
        self._search_seed, self._search_split = search_seed, tuple(search_split)
        self._runs: dict[str, Run] = {}
        self._configs: dict[tuple, CfgNode] = {}
        # {key of SAMPLERS: KEY VALUE pairs}
        self._samplers = {key: self._words(sampler) for key, sampler in SAMPLERS.items() if self._is_known(sampler)}

    def _is_known(self, sampler: Sampler) -> bool:
        return sampler.source is None or self._files[sampler.source].exists()

    def _words(self, sampler: Sampler) -> tuple[str, ...]:
        found = [_pairs(self._config(sampler.source), key) for key in sampler.keys] if sampler.source else []
        return (*sampler.words, *(word for words in found for word in words))

    def unknown_samplers(self) -> list[str]:
        """Keys of the :data:`SAMPLERS` that can't be tried, as the config of their method doesn't exist."""
        return [key for key in SAMPLERS if key not in self._samplers]

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
        """
        End-to-end methods, each with every sampler that fits.

        What equals another method, or a combination that precedes it in the list, is left out.
        """
        known = [self._config(key) for key in self.methods_of(END_TO_END)]
        found = []
        for combination in combinations:
            for sampler, words in self._samplers.items():
                cfg = self._config(combination.training, words)
                if _can_train(cfg) and not any(_trains_the_same(cfg, other) for other in known):
                    known.append(cfg)
                    found.append(replace(combination, sampler=sampler))
        return found

    def with_second_stages(self, combinations: Sequence[Combination]) -> list[Combination]:
        """
        Combinations without a second stage, each with every second stage that fits.

        The parts that stay frozen must be those of the second stage's config. A classifier that is kept must have the
        outputs that the second stage trains, for scores of the same family.
        """
        return [
            replace(combination, second_stage=key)
            for combination in combinations
            for key in self.methods_of(SECOND_STAGE)
            if self._fits(self._config(combination.training), self._config(key))
        ]

    def with_calibrations(self, combinations: Sequence[Combination]) -> list[Combination]:
        """Combinations, each with every calibration that fits its activation; each name and options once."""
        return [
            replace(combination, calibration=key)
            for combination in combinations
            for key in self._calibrations(combination)
        ]

    def _calibrations(self, combination: Combination) -> list[str]:
        trained = self._config(combination.second_stage or combination.training).MODEL.ROI_BOX_HEAD.ACTIVATION.NAME
        method = self.method(combination)
        found: dict[tuple, str] = {}
        for key in self.methods_of(TEST_TIME):
            cfg = self._config(key)
            # Of equal ones, that of the method itself is a run of the comparison.
            is_first = _calibration(cfg) not in found or self._methods[key].first_stage == method
            if is_first and not misfit(cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME, trained):
                found[_calibration(cfg)] = key
        return list(found.values())

    @staticmethod
    def _fits(first, second) -> bool:
        if _frozen(first) != _frozen(second):
            return False
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
            parts.append(SAMPLERS[combination.sampler].title)
        if combination.second_stage:
            parts.append(f"second stage {self._methods[combination.second_stage].title}")
        if combination.calibration:
            parts.append(self._methods[combination.calibration].title)
        return " + ".join(parts)

    def model_run(self, combination: Combination, seed: int) -> Run:
        """
        The run that trains the model of a combination, before any calibration.

        It evaluates the model on the validation set, or on the search split if only the search trains it.
        """
        combination = replace(combination, calibration=None)
        trained, words, first = combination.training, self._sampler_words(combination), None
        if combination.second_stage:
            first = self.model_run(replace(combination, second_stage=None), seed)
            trained, words = combination.second_stage, ()
        method = self.method(combination)
        if method is None and self._is_ranked(combination, seed):
            words = (*words, *self._search_split)
        name = f"{method or f'{FOLDER}/{combination.key}'}/seed_{seed}"
        return self._once(name, seed, self._files[trained], words, first, False)

    def run(self, combination: Combination, seed: int) -> Run:
        """The run that evaluates a combination on the validation set."""
        if combination.calibration is None and not self._is_ranked(combination, seed):
            return self.model_run(combination, seed)
        return self._evaluation(combination, seed, VALIDATION, ())

    def search_run(self, combination: Combination) -> Run:
        """The run that evaluates a combination on the search split, with the seed of the search."""
        if combination.calibration is None and self._is_ranked(combination, self._search_seed):
            return self.model_run(combination, self._search_seed)
        return self._evaluation(combination, self._search_seed, SEARCH, self._search_split)

    def _is_ranked(self, combination: Combination, seed: int) -> bool:
        """Whether training evaluates the model on the search split."""
        is_method = self.method(replace(combination, calibration=None)) is not None
        return bool(self._search_split) and seed == self._search_seed and not is_method

    def _sampler_words(self, combination: Combination) -> tuple[str, ...]:
        return self._samplers[combination.sampler] if combination.sampler else ()

    def runs(self) -> list[Run]:
        """All runs so far."""
        return list(self._runs.values())

    def _evaluation(self, combination: Combination, seed: int, split: str, words: tuple[str, ...]) -> Run:
        model = self.model_run(combination, seed)
        key = combination.calibration
        if key:
            model = PreparationRun.of(model, self._config(key))
        method = self.method(combination) if split == VALIDATION else None
        if method:  # the comparison's own run of it
            return self._once(f"{method}/seed_{seed}", seed, self._files[method], words, model, True)
        calibration = _calibration(self._config(key)) if key else ()
        name = f"{FOLDER}/{split}/{combination.key}/seed_{seed}"
        trained = combination.second_stage or combination.training
        sampler = () if combination.second_stage else self._sampler_words(combination)
        return self._once(name, seed, self._files[trained], (*sampler, *calibration, *words), model, True)

    def _once(
        self, name: str, seed: int, file: Path, words: tuple[str, ...], after: Run | None, evaluates: bool
    ) -> Run:
        if name not in self._runs:
            words = (*self._overrides, *words)
            self._runs[name] = new_run(name, seed, file, self._output, words, after, evaluates)
        return self._runs[name]

    def _config(self, key: str, words: tuple[str, ...] = ()) -> CfgNode:
        """The config of a method with further overrides, not to be changed: it is loaded once."""
        if (key, words) not in self._configs:
            self._configs[key, words] = load_config(self._files[key], (*self._overrides, *words))
        return self._configs[key, words]


def _pairs(cfg, key: str) -> tuple[str, ...]:
    """A config key with its value, or all keys of a node, as ``KEY VALUE`` pairs."""
    value = get(cfg, key)
    if not isinstance(value, CfgNode):
        return key, str(value)
    return tuple(word for name in value for word in _pairs(cfg, f"{key}.{name}"))


def _can_train(cfg) -> bool:
    """Whether the sampler and copy-paste can be combined with the rest of the config."""
    try:
        check_copy_paste(cfg)
    except InputError:
        return False
    return True


def _trains_the_same(one, other) -> bool:
    return same_run(_with_used_threshold(one), _with_used_threshold(other), Path(other.OUTPUT_DIR))


def _with_used_threshold(cfg) -> CfgNode:
    if cfg.DATALOADER.SAMPLER_TRAIN not in _WITHOUT_THRESHOLD:
        return cfg
    cfg = cfg.clone()
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.0
    return cfg


def _frozen(cfg) -> CfgNode:
    """What a second stage doesn't train: it must be as in the first stage."""
    model = cfg.MODEL.clone()
    for key in ("WEIGHTS", "META_ARCHITECTURE", "DECOUPLED", "CLASS_PRIOR"):
        del model[key]
    for key in ("ACTIVATION", "CALIBRATION"):
        del model.ROI_BOX_HEAD[key]
    return model


def _family(cfg) -> str:
    return activation_class(cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME).family


def _classifier(cfg) -> tuple:
    classifier = activation_from_config(cfg).classifier(_IN_FEATURES)
    return type(classifier), {key: tuple(value.shape) for key, value in classifier.state_dict().items()}


def _calibration(cfg) -> tuple[str, ...]:
    """The calibration of a config with its options, as overrides."""
    node = cfg.MODEL.ROI_BOX_HEAD.CALIBRATION
    keys = calibration_keys(node.NAME, chosen_options(node, node.NAME))
    return tuple(str(word) for pair in keys.items() for word in pair)
