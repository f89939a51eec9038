#!/usr/bin/env python
"""
Get LVIS-1.0's annotations, link COCO's images, check all of it, and say what is missing and how to get it.

    tools/prepare_lvis.py                                  # download the annotations into ./datasets, and check
    tools/prepare_lvis.py --coco /data/coco                # also link train2017, val2017 and test2017 of a COCO copy
    tools/prepare_lvis.py --from /media/usb                # without a network: zip archives or JSON files of a folder
    tools/prepare_lvis.py --check --splits train val       # only look; nothing is written

Downloads go on where they were interrupted and are compared with the published MD5. Nothing that is there is replaced.
The exit status is 0 if all parts are there and 2 if not.
"""

import argparse
import sys
from pathlib import Path

from balanced_lvis.console.command_line import command_line, log_to_screen
from balanced_lvis.console.printing import print_text
from balanced_lvis.data.dataset_files import datasets_root
from balanced_lvis.data.lvis_v1 import ANNOTATIONS, look, prepare, show
from balanced_lvis.data.lvis_v1.lvis_files import ANNOTATIONS_URL
from balanced_lvis.data.lvis_v1.prepare import check_splits
from balanced_lvis.utils.errors import InputError


@command_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", type=Path, help="folder of lvis/ and coco/ (default: $DETECTRON2_DATASETS or ./datasets)")
    add("--splits", nargs="+", default=list(ANNOTATIONS), help="by default all: train val test_dev")
    add("--from", dest="source", metavar="DIR", help="take annotation files or their zip archives from a folder")
    add("--coco", metavar="DIR", help="link the COCO image folders that are in DIR, or in DIR/images")
    add("--check", action="store_true", help="only look at what is there; needs no network and writes nothing")
    add("--url", default=ANNOTATIONS_URL, help="where the annotations are published (default: %(default)s)")
    args = parser.parse_args()
    log_to_screen()
    root = args.root or datasets_root()
    check_splits(args.splits)
    if args.check and (args.source or args.coco):
        raise InputError("--check only looks; leave out --from and --coco, or --check.")
    if args.check:
        parts = look(root, args.splits)
    else:
        parts = prepare(root, args.splits, source=args.source, coco=args.coco, url=args.url)
    print_text(show(parts))
    missing = [part.name for part in parts if not part.ok]
    if missing:
        raise InputError(f"{len(missing)} of {len(parts)} parts of LVIS-1.0 aren't as they should be, as listed.")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; what has arrived is kept, and the same command goes on", file=sys.stderr)
        sys.exit(130)
