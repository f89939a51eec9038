#!/usr/bin/env python
"""
Render the data set that a config names, or one by parameters, without training.

    tools/render_dataset.py --config-file configs/quick_start/balanced_sigmoid.yaml
    tools/render_dataset.py DATASETS.RENDERED.NUM_CLASSES 1203 DATASETS.RENDERED.ROOT datasets/rendered_large
"""

import argparse
import sys

from balanced_lvis.config import load_config
from balanced_lvis.console.command_line import command_line, log_to_screen
from balanced_lvis.console.printing import print_text
from balanced_lvis.data.config_datasets import rendered_root, rendered_spec
from balanced_lvis.data.rendered import render_dataset


@command_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="", help="yaml with DATASETS.RENDERED; defaults where not given")
    parser.add_argument("--workers", type=int, help="processes; by default one per core, at most 8")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="overrides: KEY VALUE pairs under DATASETS.RENDERED")
    args = parser.parse_args()
    log_to_screen()
    cfg = load_config(args.config_file, args.opts)
    print_text(render_dataset(rendered_spec(cfg), rendered_root(cfg), workers=args.workers))


if __name__ == "__main__":
    sys.exit(main())
