"""The command ``quickstart``: comparison of the sigmoid baseline and Balanced Sigmoid on the rendered dataset."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..config_files.names import config_path
from ..console.command_line import command_line, log_to_screen
from ..experiments.arguments import SEEDS
from ..experiments.methods import METHODS
from ..experiments.quick_start import Candidate, quick_start
from .overrides import parse_with_overrides
from .parsers import new_parser

DESCRIPTION = """\
Train the sigmoid baseline and Balanced Sigmoid on the rendered dataset and compare them. `make quickstart` runs this.

    %(prog)s                                                         # three seeds
    %(prog)s --output output/one_seed --seeds 0                      # one seed, in a third of the time
    %(prog)s --output output/forms --forms                           # the baseline and both forms of Balanced Sigmoid
    %(prog)s --output output/long --seeds 0 1 SOLVER.MAX_ITER 900    # overrides of the config, for all runs
"""
FORM = "MODEL.ROI_BOX_HEAD.ACTIVATION.BALANCED_SIGMOID.FORM"
TITLE = METHODS["balanced_sigmoid"].title
BASELINE = ("baseline", METHODS["sigmoid"].title, "quick_start/sigmoid", ())
# key in summary.json, title, config, overrides
CANDIDATES = [BASELINE, ("balanced_sigmoid", TITLE, "quick_start/balanced_sigmoid", ())]
FORMS = [
    BASELINE,
    ("foreground", f"{TITLE}, foreground", "quick_start/balanced_sigmoid", (FORM, "foreground")),
    ("centred", f"{TITLE}, centred", "quick_start/balanced_sigmoid", (FORM, "centred")),
]


@command_line
def main(arguments: list[str] | None = None) -> None:
    args = parse_with_overrides(_parser(), sys.argv[1:] if arguments is None else arguments)
    log_to_screen()
    candidates = [
        Candidate(key, title, Path(config_path(config)), options)
        for key, title, config, options in (FORMS if args.forms else CANDIDATES)
    ]
    quick_start(candidates, args.seeds, None, args.output, args.opts)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("quickstart", DESCRIPTION)
    add = parser.add_argument
    add("--output", type=Path, default=Path("output/quick_start"), help="folder of the results (default: %(default)s)")
    add("--seeds", type=int, nargs="+", default=list(SEEDS), help=f"seeds (default: {' '.join(map(str, SEEDS))})")
    add("--forms", action="store_true", help="compare the two forms of Balanced Sigmoid with the baseline")
    add("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of the config, for all runs")
    return parser
