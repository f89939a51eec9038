"""
The console command ``balanced-lvis``, which runs the modules of :mod:`balanced_lvis.commands`.

It is a module outside the package and imports the standard library only, because importing ``balanced_lvis`` imports
PyTorch and Detectron2, which takes seconds. The list of commands is shown without them, and signals are handled before.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

PROGRAM = "balanced-lvis"
# Name, module of balanced_lvis.commands, and the line shown by --help.
COMMANDS = {
    "train": ("train", "train a model and evaluate it"),
    "evaluate": ("evaluate", "evaluate a checkpoint or a results file"),
    "predict": ("predict", "detect objects in images, draw them and write them as JSON"),
    "calibrate": ("calibrate", "evaluate many calibrations of a checkpoint in one pass"),
    "export": ("export", "write, convert or validate an LVIS submission"),
    "analyze-dataset": ("analyze_dataset", "show the class frequencies of a dataset"),
    "collect-logits": ("collect_logits", "write statistics of a checkpoint's logits, for the calibration LogN"),
    "analyze-results": ("analyze_results", "break AP down by error type, category and size; compare two results"),
    "report": ("report", "write one HTML file about one or more runs, to look at in a browser"),
    "convert": ("convert", "convert checkpoints between Detectron2, balanced_lvis, EQL and BALMS"),
    "compare": ("compare", "train every method with several seeds and compare them"),
    "quickstart": ("quickstart", "train and compare two methods on a rendered dataset, without a GPU"),
    "prepare-lvis": ("prepare_lvis", "download, link and check LVIS-1.0"),
    "render": ("render", "render a synthetic long-tailed dataset"),
    "configs": ("configs", "list the configs that --config-file finds by name"),
    "replay": ("replay", "repeat a training step that was not finite"),
    "scaling": ("scaling", "predict the throughput on many GPUs"),
    "train-classifier": ("train_classifier", "train and evaluate a long-tailed image classifier"),
    "classification": ("classification", "train image classifiers with every method and compare them"),
}
# Former names, which still work.
ALIASES = {"analyze": "analyze-dataset"}
_WITHOUT_DETECTRON2 = ("configs", "train-classifier", "classification")
# Of balanced_lvis.utils.errors, which can't be imported here.
_PREEMPTED, _INPUT_ERROR = 75, 2


def main() -> int:
    """
    Runs the command that ``sys.argv`` names.

    Returns:
        the exit status.
    """
    end_on_early_signals()
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(_help(), file=sys.stdout if words else sys.stderr)
        return 0 if words else _INPUT_ERROR
    if words[0] == "--version":
        print(f"{PROGRAM} {importlib.import_module('balanced_lvis').__version__}")
        return 0
    command = ALIASES.get(words[0], words[0])
    if command != words[0]:
        print(f"`{PROGRAM} {words[0]}` is deprecated; use `{PROGRAM} {command}`.", file=sys.stderr)
    if command not in COMMANDS:
        print(f"error: {_unknown(words[0])}", file=sys.stderr)
        return _INPUT_ERROR
    sys.argv = [f"{PROGRAM} {command}", *words[1:]]
    if command in _WITHOUT_DETECTRON2:
        import_without_detectron2()
    return importlib.import_module(f"balanced_lvis.commands.{COMMANDS[command][0]}").main()


def import_without_detectron2() -> None:
    """Import ``balanced_lvis`` without Detectron2, which takes a second and may not be installed."""
    skip = "BALANCED_LVIS_SKIP_DETECTRON2"  # of balanced_lvis._detectron2
    before = os.environ.get(skip)
    os.environ[skip] = "1"
    try:
        importlib.import_module("balanced_lvis")
    finally:
        if before is None:
            del os.environ[skip]
        else:
            os.environ[skip] = before


def end_on_early_signals() -> None:
    """
    Exits at once, without a traceback, on signals that arrive while slow imports are under way.

    SIGTERM and SIGUSR1 exit with the status of :class:`balanced_lvis.utils.errors.Preempted`.
    :mod:`balanced_lvis.console.signals` takes over after the imports. Processes that a job starts begin with these
    signals blocked; they are unblocked here.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: os._exit(_PREEMPTED))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGUSR1))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where the parent process ignores Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND ...",
            "",
            "Long-tailed instance segmentation with Balanced Activation, on Detectron2.",
            "",
            "commands:",
            *lines,
            "",
            f"`{PROGRAM} COMMAND --help` describes the arguments of a command.",
        ]
    )


def _unknown(word: str) -> str:
    import difflib

    close = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"{word[:80]!a} is not a command of {PROGRAM}.{hint} Valid: {', '.join(COMMANDS)}."


# In a process of a job, which imports the console script again. Importing multiprocessing here would take longer than
# all else that precedes the handling of signals.
if "multiprocessing.process" in sys.modules and sys.modules["multiprocessing.process"].parent_process() is not None:
    end_on_early_signals()

if __name__ == "__main__":
    sys.exit(main())
