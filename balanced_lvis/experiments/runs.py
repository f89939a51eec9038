"""Training runs and their folders: whether a run has finished, and whether it is of the same config."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ..calibration.base import calibration_class
from ..calibration.logit_statistics import STATISTICS_SUFFIX
from ..config_files.keys import flat
from ..utils.errors import InputError
from ..utils.io import cached_sha256, write_json, write_text
from ..utils.iteration_lines import iteration_of, read_lines
from ..utils.job_lock import only_job_in
from ..utils.keyword_options import chosen_options
from ..utils.run_files import CONFIG, EVALUATION, FINAL_WEIGHTS, LAST_CHECKPOINT, METRICS, RESULTS

FIRST_STAGE = "first_stage.json"  # which weights the run started from
_PREPARED = "prepared.json"
_WRITERS = {STATISTICS_SUFFIX: "collect-logits"}  # commands that write files of calibrations, by their suffix
SCREEN = "screen.txt"
TAIL_LINES = 15
_CONSOLE_COMMAND = Path(__file__).resolve().parents[2] / "balanced_lvis_cli.py"


@dataclass
class Run:
    """
    A training run.

    Attributes:
        key: unique name.
        title: name to show.
        config_file: its config.
        output: its OUTPUT_DIR.
        overrides: ``KEY VALUE`` pairs.
        after: the run whose final model this one starts from, and which must have finished before; None if there is
            none.
        subcommand: the command of ``balanced-lvis`` that trains it.
        verb: what the run does, in messages.
        trains: whether it trains a model.
    """

    subcommand: ClassVar[str] = "train"
    verb: ClassVar[str] = "Training"
    trains: ClassVar[bool] = True

    key: str
    title: str
    config_file: Path
    output: Path
    overrides: tuple[str, ...] = ()
    after: Run | None = None
    _configs: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def config(self):
        """
        The config with the overrides, not to be changed: it is loaded once.

        Raises:
            InputError: if the config is invalid.
        """
        key = (self.config_file, self.overrides)
        if key not in self._configs:
            self._configs[key] = self.load_config(self.config_file, self.overrides)
        return self._configs[key]

    def load_config(self, config_file: Path, overrides: Sequence[str] = ()):
        """
        Load a config of this kind of run.

        Raises:
            InputError: if the config is invalid.
        """
        from ..config import load_config  # needs Detectron2, which runs of another kind may not have

        return load_config(config_file, overrides)

    def iterations(self) -> int:
        """The number of iterations of the whole run."""
        return self.config().SOLVER.MAX_ITER

    def command(self, program: Path | None = None) -> list:
        """
        The command that trains and evaluates, and that continues an interrupted run.

        Args:
            program: path of a program with the commands of ``balanced-lvis``; None: ``balanced-lvis`` itself.
        """
        return self._command(program, self.subcommand, "--resume")

    def _command(self, program: Path | None, *words: str) -> list:
        start = [sys.executable, program or _CONSOLE_COMMAND, *words]
        return [*start, "--config-file", self.config_file, *self.overrides, "OUTPUT_DIR", self.output]

    @property
    def weights(self) -> Path:
        """Path of the final model, which exists once training has finished."""
        return self.output / FINAL_WEIGHTS

    @property
    def folder(self) -> Path:
        """The folder of the run's config and results."""
        return self.output

    def results(self) -> dict:
        """The content of ``results.json``."""
        return self.load(RESULTS)

    def progress(self) -> tuple[int, float]:
        """Number of finished iterations and the last logged loss; 0 and NaN before the first."""
        done, loss = 0, math.nan
        for line in read_lines(self.output / METRICS):
            iteration = iteration_of(line)
            if iteration < math.inf:  # the last line may be incomplete
                done, loss = int(iteration) + 1, json.loads(line).get("total_loss", loss)
        return done, loss

    def finished(self, cfg) -> bool:
        """Whether the run has finished with this config, and its final model has been evaluated."""
        results, weights = self.folder / RESULTS, self.weights
        if not self.has_results() or not self._is_of(cfg) or self.is_of_other_first_stage():
            return False
        return not weights.exists() or results.stat().st_mtime >= weights.stat().st_mtime

    def has_results(self) -> bool:
        """Whether the folder has the results of a whole run, of any config."""
        # With TEST.EVAL_PERIOD, the results of an interrupted run may be those of an earlier model.
        return (self.folder / RESULTS).exists() and self._has_ended_training()

    def note_start(self) -> None:
        """Note which weights the run starts from, so that it is not kept when its first stage is trained again."""
        if self.after is not None and self.after.weights.exists():
            write_json(self.output / FIRST_STAGE, {"sha256": cached_sha256(self.after.weights)})

    def note_success(self) -> None:
        """Called when the run's process has succeeded."""

    def is_of_other_first_stage(self) -> bool:
        """Whether the run started from weights other than those that its first stage has now, as far as is known."""
        if self.after is None or not self.after.weights.exists():
            return False
        try:
            noted = json.loads((self.output / FIRST_STAGE).read_text(encoding="utf-8"))["sha256"]
        except (OSError, ValueError, KeyError, TypeError):  # of an earlier version
            return False
        return noted != cached_sha256(self.after.weights)

    def _has_ended_training(self) -> bool:
        """According to the last_checkpoint file, which stays if the weights are removed to save disk space."""
        try:
            return (self.output / LAST_CHECKPOINT).read_text(encoding="utf-8").strip() == FINAL_WEIGHTS
        except OSError:
            return False

    def is_of_other(self, cfg) -> bool:
        """Whether the output is of another config or first stage, and so must not be resumed with this one."""
        return self._config_path.exists() and (not self._is_of(cfg) or self.is_of_other_first_stage())

    def discard(self) -> None:
        """
        Delete the output.

        Raises:
            InputError: if a job is using the folder.
        """
        if self.output.exists():
            with only_job_in(self.folder):
                shutil.rmtree(self.output)

    def load(self, *parts: str):
        """Contents of a JSON file that the run has written to :attr:`folder`."""
        return json.loads(self.folder.joinpath(*parts).read_text(encoding="utf-8"))

    def tail(self) -> str:
        """The last lines that the run has printed."""
        lines = (self.output / SCREEN).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    @property
    def _config_path(self) -> Path:
        return self.folder / CONFIG

    def _is_of(self, cfg) -> bool:
        path = self._config_path
        return path.exists() and same_run(self.saved_config(path), cfg, self.output)

    def saved_config(self, path: Path):
        """
        The config that the run has written, without what it has added.

        Raises:
            InputError: if it is invalid.
        """
        return self.load_config(path)


class _WithoutTraining(Run):
    """A run that trains nothing, and whose progress is not known."""

    trains: ClassVar[bool] = False

    def iterations(self) -> int:
        """One, so that progress has something to count."""
        return 1

    def progress(self) -> tuple[int, float]:
        """Nothing is reported until the run has ended."""
        return 0, math.nan


class EvaluationRun(_WithoutTraining):
    """
    An evaluation of the model of :attr:`after`, without training.

    Its config and results are in ``OUTPUT_DIR/evaluation``, as ``--eval-only`` writes them.
    """

    verb: ClassVar[str] = "Evaluation of"

    def command(self, program: Path | None = None) -> list:
        """As in the base class, with ``--eval-only``."""
        return self._command(program, self.subcommand, "--eval-only")

    @property
    def folder(self) -> Path:
        """``OUTPUT_DIR/evaluation``."""
        return self.output / EVALUATION

    def has_results(self) -> bool:
        """Whether the folder has the results of an evaluation, of any config."""
        return (self.folder / RESULTS).exists()

    def saved_config(self, path: Path):
        """The config that the evaluation has written, without its own folder and the prior found with the weights."""
        cfg = super().saved_config(path)
        if os.path.basename(cfg.OUTPUT_DIR) == EVALUATION:
            cfg.OUTPUT_DIR = os.path.dirname(cfg.OUTPUT_DIR)
        prior = cfg.MODEL.get("CLASS_PRIOR")  # none in image classification
        if prior is not None and os.path.dirname(prior.FILE) == os.path.dirname(cfg.MODEL.WEIGHTS):
            prior.FILE = ""
        return cfg


@dataclass
class PreparationRun(_WithoutTraining):
    """
    What an evaluation needs of the model of :attr:`after`: a file that a command writes next to the weights.

    Attributes:
        tool: the command of ``balanced-lvis``.
        suffix: of the file, in place of that of the weights.
    """

    verb: ClassVar[str] = "Preparation of"

    tool: str = ""
    suffix: str = ""

    @classmethod
    def of(cls, model: Run, cfg) -> Run:
        """
        The preparation of a model for an evaluation, in a folder below its own.

        Args:
            model: the run that trains it.
            cfg: config of the evaluation.

        Returns:
            ``model`` if its weights are enough.
        """
        for suffix, tool in preparations_of(cfg).items():
            model = cls._by(model, tool, suffix)
        return model

    @classmethod
    def _by(cls, model: Run, tool: str, suffix: str) -> PreparationRun:
        overrides = (*model.overrides, "MODEL.WEIGHTS", str(model.weights))
        title, output = f"{tool} of {model.title}", model.output / tool
        return cls(f"{model.key}/{tool}", title, model.config_file, output, overrides, model, tool, suffix)

    def command(self, program: Path | None = None) -> list:
        """The command that writes the file."""
        return self._command(program, self.tool)

    @property
    def file(self) -> Path:
        """The file, next to the weights, where :func:`..calibration.base.with_saved_files` looks for it."""
        return Path(os.path.splitext(self.weights)[0] + self.suffix)

    @property
    def weights(self) -> Path:
        """The weights of the model."""
        assert self.after is not None
        return self.after.weights

    def note_start(self) -> None:
        """As in the base class, with the config, which the command doesn't write."""
        (self.output / _PREPARED).unlink(missing_ok=True)
        super().note_start()
        cfg = self.config().clone()
        cfg.OUTPUT_DIR = str(self.output)  # the weights are compared relative to it
        write_text(self._config_path, cfg.dump())

    def note_success(self) -> None:
        """Note that the file is complete."""
        write_json(self.output / _PREPARED, {"file": self.file.name})

    def has_results(self) -> bool:
        """Whether the file has been written, with any config, and still exists."""
        return (self.output / _PREPARED).exists() and self.file.exists()

    def finished(self, cfg) -> bool:
        """Whether the file has been written with this config from the weights that the model has now."""
        return self.has_results() and not self.is_of_other(cfg)


def preparations_of(cfg) -> dict[str, str]:
    """
    What an evaluation needs next to the weights.

    Args:
        cfg: config of the evaluation.

    Returns:
        {suffix of a file: command of ``balanced-lvis`` that writes it}, of the calibration's
        :attr:`~balanced_lvis.calibration.Calibration.saved_files` for which the config has no path.
    """
    node = cfg.MODEL.ROI_BOX_HEAD.CALIBRATION
    if not node.NAME:
        return {}
    options, files = chosen_options(node, node.NAME), calibration_class(node.NAME).saved_files
    return {suffix: _WRITERS[suffix] for name, suffix in files.items() if suffix in _WRITERS and not options.get(name)}


def same_run(one, other, output: Path) -> bool:
    """
    Whether two configs define the same run, regardless of device, output folder and imported modules.

    Args:
        one: a config; its ``OUTPUT_DIR`` is the folder of the run.
        other: a config.
        output: folder of its run, which its ``OUTPUT_DIR`` may not state yet.
    """
    one, other = one.clone(), other.clone()
    if _from_folder(one.MODEL.WEIGHTS, one.OUTPUT_DIR) == _from_folder(other.MODEL.WEIGHTS, output):
        one.MODEL.WEIGHTS = other.MODEL.WEIGHTS
    one.MODEL.DEVICE, one.OUTPUT_DIR, one.IMPORTS = other.MODEL.DEVICE, other.OUTPUT_DIR, other.IMPORTS
    one, other = flat(one), flat(other)
    # A module that is imported meanwhile adds options of methods that at most one of the runs can use. Values are
    # compared as text, because nested tuples become lists in a file.
    return all(json.dumps(one[key]) == json.dumps(other[key]) for key in one.keys() & other.keys())


def _from_folder(weights: str, folder) -> str:
    """Weights relative to the run's folder, which stay the same if both the run and its first stage are moved."""
    return os.path.relpath(weights, folder) if weights and "://" not in weights else weights


def with_first_stages(runs: Sequence[Run]) -> list[Run]:
    """The runs, each after those that it builds on, and each folder once."""
    found: dict[Path, Run] = {}
    for run in runs:
        for one in _chain(run):
            found.setdefault(one.output, one)
    return list(found.values())


def _chain(run: Run) -> list[Run]:
    return [*(_chain(run.after) if run.after else []), run]


def unfinished(runs: list[Run]) -> list[Run]:
    """
    Runs that are not finished with their config, and the second stages of such runs.

    Args:
        runs: the runs, each after the run that it starts from.

    Raises:
        InputError: if the weights of a finished first stage are needed and were removed.
    """
    to_do: list[Run] = []
    for run in runs:
        if run.after in to_do or not run.finished(run.config()):
            to_do.append(run)
    for run in to_do:
        if run.after and run.after not in to_do and not run.after.weights.exists():
            raise InputError(
                f"{run.after.weights}, from which {run.title} starts, doesn't exist; restore it, or delete "
                f"{run.after.output / RESULTS} and {run.after.output / LAST_CHECKPOINT} to train it again."
            )
    return to_do


def discard_stale(to_do: Sequence[Run], runs: Sequence[Run], output: Path) -> None:
    """
    Delete the outputs of other configs, and those of all second stages whose first stage is trained again.

    The number of finished runs among them is printed first, as their results are lost.

    Args:
        to_do: the runs that are trained.
        runs: all runs of the experiment, each after the run that it starts from.
        output: its folder, for the message.

    Raises:
        InputError: if a job is using one of the folders.
    """
    stale = [run for run in to_do if run.is_of_other(run.config())]
    for run in runs:
        if run not in stale and (run.after in to_do or run.after in stale):
            stale.append(run)
    if finished := [run for run in stale if run.has_results()]:
        several = len(finished) > 1
        print(
            f"{len(finished)} finished run{'s' * several} of another config in {output} {'are' if several else 'is'} "
            f"deleted{', the first of them' * several}: {finished[0].title}",
            flush=True,
        )
    for run in stale:
        run.discard()
