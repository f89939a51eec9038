"""The command ``quickstart``: comparison of the sigmoid baseline and Balanced Sigmoid on the rendered dataset."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..config_files.names import config_path
from ..console.command_line import command_line, log_to_screen
from ..experiments.methods import METHODS
from ..experiments.quick_start import quick_start
from ..experiments.runs import Run
from .parsers import new_parser

DESCRIPTION = """\
Train the sigmoid baseline and Balanced Sigmoid on the rendered dataset and compare them. `make quickstart` runs this.

    %(prog)s [--output output/quick_start] [KEY VALUE ...]
    %(prog)s --forms --output output/forms SEED 1    # the baseline and both forms of Balanced Sigmoid
"""
FORM = "MODEL.ROI_BOX_HEAD.ACTIVATION.BALANCED_SIGMOID.FORM"
TITLE = METHODS["balanced_sigmoid"].title
# key in summary.json, title, config, overrides
RUNS = [
    ("baseline", "sigmoid", "quick_start/sigmoid", ()),
    ("balanced_sigmoid", TITLE, "quick_start/balanced_sigmoid", ()),
]
FORMS = [
    RUNS[0],
    ("foreground", f"{TITLE}, foreground", "quick_start/balanced_sigmoid", (FORM, "foreground")),
    ("centred", f"{TITLE}, centred", "quick_start/balanced_sigmoid", (FORM, "centred")),
]


@command_line
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    log_to_screen()
    runs = [
        Run(key, title, Path(config_path(config)), args.output / key, overrides)
        for key, title, config, overrides in (FORMS if args.forms else RUNS)
    ]
    quick_start(runs, None, args.output, args.opts)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("quickstart", DESCRIPTION)
    add = parser.add_argument
    add("--output", type=Path, default=Path("output/quick_start"), help="folder of the results (default: %(default)s)")
    add("--forms", action="store_true", help="compare the two forms of Balanced Sigmoid with the baseline")
    add("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of the config, for all runs")
    return parser
