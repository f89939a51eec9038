"""The command line of a training or an evaluation."""

from __future__ import annotations

import argparse
import os

from detectron2.engine import default_argument_parser

from ..config import default_config

DESCRIPTION = "Train a model and evaluate it, or evaluate a checkpoint or a results file."

EXAMPLES = """\
  tools/train_net.py --config-file configs/r101_balanced_sigmoid.yaml --num-gpus 8
  tools/train_net.py --config-file configs/r101_balanced_sigmoid.yaml --num-gpus 8 --resume
  tools/train_net.py --config-file configs/r50_rfs.yaml --eval-only MODEL.WEIGHTS output/r50_rfs/model_final.pth
  tools/train_net.py --config-file configs/r50_rfs.yaml --eval-only --predictions results.json
  torchrun --nproc_per_node 8 tools/train_net.py --config-file configs/r50_rfs.yaml

Overrides of the config come last. The model, logs and results.json are in its OUTPUT_DIR, those of --eval-only in
OUTPUT_DIR/evaluation. Several machines, SLURM: docs/scaling.md. Without a GPU everything runs on the CPU, and
--num-gpus counts processes.

exit status: 0 done; 2 bad input; 3 diverged; 4 disk or folder; 5 a process was lost; 75 asked to stop by SIGTERM or
SIGUSR1, with a checkpoint saved if there was anything to save; 130 interrupted by Ctrl-C. --resume continues"""


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's own arguments and ours; ``--num-gpus`` counts processes where there is no GPU."""
    parser = default_argument_parser(f"examples:\n{EXAMPLES}")
    parser.description = DESCRIPTION
    # Detectron2's own default is a port that two jobs of a user would share.
    parser.set_defaults(dist_url="auto")
    helps = {
        "--config-file": "a yaml of configs/, or your own",
        "--resume": "go on from the newest whole checkpoint in OUTPUT_DIR, if there is one",
        "--eval-only": "evaluate MODEL.WEIGHTS on DATASETS.TEST; results are written to OUTPUT_DIR/evaluation",
        "--num-gpus": "processes on this machine, each with a GPU where there are any (default: 1)",
        "--num-machines": "of the job; torchrun and SLURM are recognised without it (default: 1)",
        "--machine-rank": "of this machine, from 0 on",
        "--dist-url": "tcp://HOST:PORT where machines meet",
        "opts": "KEY VALUE overrides of the config",
    }
    for action in parser._actions:
        name = (action.option_strings or [action.dest])[-1]
        action.help = helps.get(name, action.help)
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="train without the images that are not on the disk; they are counted and the first ones named",
    )
    parser.add_argument(
        "--predictions",
        metavar="FILE",
        help="with --eval-only: evaluate a results file, JSON or zip, on DATASETS.TEST; no model and no weights",
    )
    return parser


def split_overrides(words: list[str]) -> tuple[list[str], list[str]]:
    """
    Divide what an option of many values took, as argparse gives it the overrides that follow too.

    Args:
        words: files, then perhaps ``KEY VALUE`` pairs. A file that exists is never taken for a key.

    Returns:
        the files; the pairs, flat.
    """
    sections = set(default_config())
    for i, word in enumerate(words):
        if i and word.partition(".")[0] in sections and not os.path.exists(word):
            return words[:i], words[i:]
    return words, []
