"""The command ``prepare-lvis``: setup of LVIS-1.0 in the layout that Detectron2 expects."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..console.command_line import command_line, log_to_screen
from ..console.printing import print_text
from ..data.dataset_files import datasets_root
from ..data.lvis_v1 import ANNOTATIONS, look, prepare, show
from ..data.lvis_v1.lvis_files import ANNOTATIONS_URL
from ..data.lvis_v1.prepare import check_splits
from ..utils.errors import InputError
from .parsers import new_parser

DESCRIPTION = """\
Download the annotations of LVIS-1.0, link the images of COCO, check both, and list what is missing and where to get it.

    %(prog)s                                  # download the annotations to ./datasets, and check
    %(prog)s --coco /data/coco                # also link train2017, val2017 and test2017 of a copy of COCO
    %(prog)s --from /media/usb                # without a network: zip archives or JSON files in a folder
    %(prog)s --check --splits train val       # check only; nothing is written

Interrupted downloads are resumed, and compared with the published MD5. Existing files are never replaced.
The exit status is 0 if everything is in place and 2 otherwise.
"""


@command_line
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    log_to_screen()
    root = args.root or datasets_root()
    check_splits(args.splits)
    if args.check and (args.source or args.coco):
        raise InputError("--check writes nothing and can't be combined with --from or --coco; remove one of them.")
    parts = look(root, args.splits) if args.check else _prepare(args, root)
    print_text(show(parts))
    missing = [part.name for part in parts if not part.ok]
    if missing:
        raise InputError(f"{len(missing)} of {len(parts)} parts of LVIS-1.0 are missing or wrong, as listed above.")


def _prepare(args: argparse.Namespace, root: Path):
    try:
        return prepare(root, args.splits, source=args.source, coco=args.coco, url=args.url)
    except KeyboardInterrupt:
        print("Interrupted. Downloaded data is kept; the same command resumes the download.", file=sys.stderr)
        raise


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("prepare-lvis", DESCRIPTION)
    add = parser.add_argument
    add("--root", type=Path, help="folder that contains lvis/ and coco/ (default: $DETECTRON2_DATASETS or ./datasets)")
    add("--splits", nargs="+", default=list(ANNOTATIONS), help="splits to prepare (default: train val test_dev)")
    add("--from", dest="source", metavar="DIR", help="take annotation files or their zip archives from a folder")
    add("--coco", metavar="DIR", help="link the COCO image folders in DIR, or in DIR/images")
    add("--check", action="store_true", help="only check; needs no network and writes nothing")
    add("--url", default=ANNOTATIONS_URL, help="URL of the annotation archives (default: %(default)s)")
    return parser
