#!/usr/bin/env python
"""
Train the sigmoid baseline and Balanced Sigmoid on the rendered data set and compare them; `make quickstart` runs this.

    tools/quick_start.py [--output output/quick_start] [KEY VALUE ...]
    tools/quick_start.py --forms --output output/forms SEED 1    # both forms of Balanced Sigmoid beside the baseline
"""

if __name__ == "__main__":
    import _early_signals  # noqa: F401  before imports that take seconds

import argparse
import sys
from pathlib import Path

from balanced_lvis.console.command_line import command_line, log_to_screen
from balanced_lvis.experiments.quick_start import quick_start
from balanced_lvis.experiments.runs import Run

ROOT = Path(__file__).resolve().parents[1]
FORM = "MODEL.ROI_BOX_HEAD.ACTIVATION.BALANCED_SIGMOID.FORM"
# key in summary.json, title, config, overrides
RUNS = [
    ("baseline", "sigmoid", "sigmoid.yaml", ()),
    ("balanced_sigmoid", "Balanced Sigmoid", "balanced_sigmoid.yaml", ()),
]
FORMS = [
    RUNS[0],
    ("foreground", "Balanced Sigmoid, foreground", "balanced_sigmoid.yaml", (FORM, "foreground")),
    ("centred", "Balanced Sigmoid, centred", "balanced_sigmoid.yaml", (FORM, "centred")),
]


@command_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/quick_start"), help="folder for the results")
    parser.add_argument("--forms", action="store_true", help="compare the two forms of Balanced Sigmoid")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides for all runs: KEY VALUE pairs")
    args = parser.parse_args()
    log_to_screen()
    configs = ROOT / "configs" / "quick_start"
    runs = [
        Run(key, title, configs / config, args.output / key, overrides)
        for key, title, config, overrides in (FORMS if args.forms else RUNS)
    ]
    quick_start(runs, ROOT / "tools" / "train_net.py", args.output, args.opts)


if __name__ == "__main__":
    sys.exit(main())
