#!/usr/bin/env python
"""
Time and peak memory of balanced_lvis beside what it replaces, on the same input in one run.

    tools/benchmark.py [SUITE ...|all] [--device cuda] [--json benchmark.json]

boxes: the choice of an image's detections from 1,000 proposals x 1,203 classes.
masks: the mask head's last layer with its loss, for 128 RoIs of 1,203 classes, and at test time for 300.
train, stage2, inference: an LVIS config of R50 beside stock Detectron2's; stage2 is a step of cRT beside stock
Detectron2 with all but the classifier frozen by requires_grad.
rle: masks of detections to run lengths beside paste_masks_in_image and pycocotools, on the CPU.
evaluate: the LVIS numbers of --images images with 300 detections each, and of a tenth of them, beside the LVIS API's.
startup: from a JSON with --annotations annotations to what a rank trains from, beside Detectron2's loader.
submission: validating a mask file of --images images with 300 detections each; test-dev has 19822.
val: all of an evaluation at LVIS val's size.
growth: how costs grow with classes, detections and images.
floor: what pycocotools' C code alone takes of an evaluation of masks, by processor time, of a fifth of --images images.
submission, val and floor don't compare ours with anything, and are not among "all".
"""

import argparse
import sys
from pathlib import Path

import _checkout  # noqa: F401
import torch

from balanced_lvis.console.command_line import command_line
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.io import write_json
from balanced_lvis.utils.text import indented
from benchmarks import ALL, SUITES, Options, machine, table

ROOT = Path(__file__).resolve().parents[1]


@command_line(prints_result=True)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", default="all", choices=[*SUITES, "all"], metavar="SUITE",
                        help=f"all (default), or any of {', '.join(SUITES)}")  # fmt: skip
    parser.add_argument("--config-file", help="another LVIS config than the suite's own")
    parser.add_argument("--opts", nargs="+", default=(), metavar="KEY VALUE", help="overrides of our config")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"],
                        help="default: cuda where there is one, else cpu")  # fmt: skip
    parser.add_argument("--batch", type=int, help="images at a time; 2 in training and 1 in inference where left out")
    parser.add_argument(
        "--iterations", type=int, default=Options.iterations, help="measured steps per process; default: %(default)s"
    )
    parser.add_argument(
        "--rounds", type=int, default=Options.rounds, help="measurements per contender; default: %(default)s"
    )
    parser.add_argument(
        "--images", type=int, default=Options.images, help="images of the largest evaluation; default: %(default)s"
    )
    parser.add_argument(
        "--annotations",
        type=int,
        default=Options.annotations,
        help="of the start-up suite's file; default: %(default)s",
    )
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    options = Options(
        device=args.device,
        rounds=args.rounds,
        batch=args.batch,
        iterations=args.iterations,
        images=args.images,
        annotations=args.annotations,
        configs=ROOT / "configs",
        config_file=args.config_file,
        opts=tuple(args.opts),
    )
    rows, failed = [], []
    for suite in ALL if "all" in args.suites else args.suites:
        print(f"Measuring {suite} ...", file=sys.stderr, flush=True)
        try:
            rows += SUITES[suite](options)
        except Exception as error:  # the other suites' hours are not lost
            failed.append(suite)
            print(indented(f"{suite} failed: {type(error).__name__}: {error}"), file=sys.stderr, flush=True)
        if args.json:
            write_json(args.json, {"machine": machine(args.device), "rows": rows}, indent=1)
    print(table(rows))
    if failed:
        raise InputError(f"{', '.join(failed)} failed, see above; all else was measured.")


if __name__ == "__main__":
    sys.exit(main())
