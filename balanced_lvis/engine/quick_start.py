"""The quick start: the sigmoid baseline and Balanced Sigmoid, trained and compared on the rendered data set."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from ..config import load_config
from ..data.datasets import prepare_rendered, rendered_root
from ..data.rendered import annotation_file
from ..errors import InputError
from ..evaluation.pictures import draw_comparison
from ..evaluation.report import comparison_table, plot_ap_by_frequency
from ..io import write_json

logger = logging.getLogger(__name__)

SUMMARY = "summary.json"
PICTURES = 3
LINE_SECONDS = 20
ROWS_PER_PICTURE = 4


@dataclass
class Run:
    """One training: its key in the summary, the name to show, its config, output folder and own overrides."""

    key: str
    title: str
    config_file: Path
    output: Path
    overrides: tuple[str, ...] = ()

    def progress(self) -> tuple[int, float]:
        """Finished iterations and the last loss that training has logged; 0 and NaN before the first."""
        done, loss = 0, math.nan
        try:
            for line in (self.output / "metrics.json").read_text(encoding="utf-8").splitlines():
                metrics = json.loads(line)
                done, loss = metrics["iteration"] + 1, metrics.get("total_loss", loss)
        except (OSError, ValueError):  # not there yet, or a line that is just being written
            pass
        return done, loss

    def discard_other(self, cfg) -> None:
        """Delete the output of a run with another config, which must not be resumed with this one."""
        path = self.output / "config.yaml"
        if path.exists() and not _same_run(load_config(path), cfg):
            shutil.rmtree(self.output)

    def load(self, *parts: str):
        """A JSON file that the run has written."""
        return json.loads(self.output.joinpath(*parts).read_text(encoding="utf-8"))


def quick_start(runs: list[Run], train_net: Path, output: Path, overrides: list[str]) -> dict:
    """
    Render, train every run, evaluate, and write table, plot, pictures and ``summary.json`` to ``output``.

    The runs train side by side, each on its share of the cores. A quick start that was interrupted goes on where it
    stopped; a finished one starts anew.

    Args:
        runs: the trainings to compare; two give a row of differences.
        train_net: path of ``tools/train_net.py``.
        output: folder for the results.
        overrides: ``KEY VALUE`` pairs, for all runs.

    Returns:
        the content of ``summary.json``: {run.key: {"bbox": {...}, "segm": {...}}, ..., "seconds": wall-clock seconds
        of this call}.

    Raises:
        InputError: if a training fails, with the end of its output.
    """
    start = time.time()
    if (output / SUMMARY).exists():
        (output / SUMMARY).unlink()
        for run in runs:
            shutil.rmtree(run.output, ignore_errors=True)
    cfg = load_config(runs[0].config_file, overrides)
    for run in runs:
        run.discard_other(load_config(run.config_file, [*run.overrides, *overrides]))
    print("Rendering the data set (reused if it is there)", flush=True)
    prepare_rendered(cfg)
    print(f"Training {' and '.join(run.title for run in runs)} side by side, then evaluating with the LVIS API")
    _train_all(runs, train_net, cfg.SOLVER.MAX_ITER, overrides)
    summary = {run.key: run.load("results.json") for run in runs}
    _draw(runs, rendered_root(cfg), output)
    table = comparison_table({run.title: summary[run.key] for run in runs})
    (output / "table.md").write_text(table, encoding="utf-8")
    summary["seconds"] = round(time.time() - start, 1)
    write_json(output / SUMMARY, summary, indent=1)
    print(f"\n{table}\n{summary['seconds']:.0f} s. Table, plot, pictures and {SUMMARY} are in {output}/")
    return summary


def _same_run(one, other) -> bool:
    """Whether two configs ask for the same training; where it runs and what it is called don't matter."""
    one, other = one.clone(), other.clone()
    one.MODEL.DEVICE, one.OUTPUT_DIR = other.MODEL.DEVICE, other.OUTPUT_DIR
    # As text: a file brings nested tuples back as lists.
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _train_all(runs, train_net, iterations, overrides) -> None:
    threads = max(1, (os.cpu_count() or 1) // len(runs))
    environment = os.environ if torch.cuda.is_available() else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    processes = []
    for run in runs:
        run.output.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, train_net, "--resume", "--config-file", run.config_file]
        command += ["OUTPUT_DIR", run.output, *run.overrides, *overrides]
        with open(run.output / "screen.txt", "w", encoding="utf-8") as screen:
            processes.append(
                subprocess.Popen([*map(str, command)], stdout=screen, stderr=subprocess.STDOUT, env=environment)
            )
    failed = []
    try:
        _watch(runs, processes, iterations)
        failed = [(run, process) for run, process in zip(runs, processes) if process.poll()]
    finally:
        for process in processes:
            process.terminate()  # nothing to those that have ended
            process.wait()
    for run, process in failed:
        tail = (run.output / "screen.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        raise InputError(f"Training {run.title} failed with status {process.returncode}:\n" + "\n".join(tail))


def _watch(runs, processes, iterations) -> None:
    """One progress bar for all runs until they have ended or one has failed; plain lines where there is no terminal."""
    terminal = sys.stderr.isatty()
    bar = tqdm(total=iterations * len(runs), unit="it", disable=not terminal)
    next_line = time.monotonic()
    while any(process.poll() is None for process in processes) and not any(process.poll() for process in processes):
        status = [_status(run, iterations) for run in runs]
        bar.update(sum(done for done, _ in status) - bar.n)
        text = ", ".join(f"{run.title} {message}" for run, (_, message) in zip(runs, status))
        bar.set_description_str(text)
        if not terminal and time.monotonic() >= next_line:
            print(text, flush=True)
            next_line = time.monotonic() + LINE_SECONDS
        time.sleep(1)
    bar.close()


def _status(run: Run, iterations: int) -> tuple[int, str]:
    """Finished iterations, and a word on where the run is."""
    done, loss = run.progress()
    if done >= iterations:  # the line that holds the evaluation's results is numbered one further
        return iterations, "evaluates"
    return done, f"{done}/{iterations} loss {loss:.2f}" if done else "starts"


def _draw(runs, data_root: Path, output: Path) -> None:
    per_category = {run.title: run.load("inference", "per_category_ap.json") for run in runs}
    for task, name in (("bbox", "box"), ("segm", "mask")):
        plot_ap_by_frequency(per_category, output / f"{name}_ap_by_training_images.png", task)
    predictions = {run.title: run.load("inference", "lvis_instances_results.json") for run in runs}
    annotations = annotation_file(data_root, "val")
    image_ids = _images_with_rare_categories(annotations)
    for index in range(PICTURES):
        chosen = image_ids[index * ROWS_PER_PICTURE :][:ROWS_PER_PICTURE]
        if chosen:
            draw_comparison(annotations, data_root, predictions, chosen, output / f"predictions_{index + 1}.png")


def _images_with_rare_categories(annotations: Path) -> list[int]:
    """In the file's order, not picked by hand: these show the tail, where methods differ."""
    content = json.loads(annotations.read_text(encoding="utf-8"))
    rare = {c["id"] for c in content["categories"] if c["frequency"] == "r"}
    with_rare = {a["image_id"] for a in content["annotations"] if a["category_id"] in rare}
    return [image["id"] for image in content["images"] if image["id"] in with_rare]
