"""The command line of the benchmarks: ``tools/benchmark.py`` or ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from balanced_lvis.config_files.names import config_folder
from balanced_lvis.console.command_line import command_line
from balanced_lvis.utils.errors import InputError
from balanced_lvis.utils.io import write_json
from balanced_lvis.utils.text import indented

from . import ALL, SUITES, Options, machine, table

DESCRIPTION = """\
Time and peak memory of balanced_lvis compared with the code that it replaces, on the same input in one run.

    tools/benchmark.py [SUITE ...|all] [--device cuda] [--json benchmark.json]

boxes: NMS and top-k selection of the detections of an image, from 1,000 proposals x 1,203 classes.
masks: the last layer of the mask head with its loss, for 128 RoIs of 1,203 classes, and in inference for 300.
train, stage2, inference: an R50 LVIS config compared with Detectron2; stage2 is a step of cRT compared with Detectron2
with all parameters but the classifier frozen by requires_grad.
rle: RLE encoding of predicted masks compared with paste_masks_in_image and pycocotools, on the CPU.
evaluate: LVIS evaluation of --images images with 300 detections each, and of a tenth of them, compared with the LVIS
API.
startup: from a JSON file with --annotations annotations to the records that a rank trains on, compared with the loader
of Detectron2.
mapper: processor time from the photographs and annotations of --coco to training records, compared with the mapper of
Detectron2.
submission: validation of a mask file of --images images with 300 detections each; test-dev has 19822.
val: a complete evaluation of the size of LVIS val.
growth: growth of costs with classes, detections and images.
floor: processor time of pycocotools' C code alone in a mask evaluation of a fifth of --images images.
analysis: an analysis of --images images with 300 detections each, and of a tenth of them AP-fixed and the bootstrap
compared with plain implementations.
fixed: inference for AP-fixed (base/ap_fixed_inference) compared with 300 detections per image.
report: a report with crops of --images images with 300 detections each, and the size of its file.
fixed, mapper, submission, val, floor, analysis and report are not part of "all".
"""


@command_line(prints_result=True)
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    rows, failed = [], []
    for suite in ALL if "all" in args.suites else args.suites:
        print(f"Measuring {suite} ...", file=sys.stderr, flush=True)
        try:
            rows += SUITES[suite](_options(args))
        except Exception as error:  # the results of other suites, which take hours, are kept
            failed.append(suite)
            print(indented(f"{suite} failed: {type(error).__name__}: {error}"), file=sys.stderr, flush=True)
        if args.json:
            write_json(args.json, {"machine": machine(args.device), "rows": rows}, indent=1)
    print(table(rows))
    if failed:
        raise InputError(
            f"Suites that failed: {', '.join(failed)}; see the errors above. All other suites were measured."
        )


def _options(args: argparse.Namespace) -> Options:
    return Options(
        device=args.device,
        rounds=args.rounds,
        batch=args.batch,
        iterations=args.iterations,
        images=args.images,
        annotations=args.annotations,
        coco=args.coco,
        configs=config_folder(),
        config_file=args.config_file,
        opts=tuple(args.opts),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/benchmark.py", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("suites", nargs="*", default="all", choices=[*SUITES, "all"], metavar="SUITE",
        help=f"all (default), or any of {', '.join(SUITES)}")  # fmt: skip
    add("--config-file", help="LVIS config to use instead of the suite's")
    add("--opts", nargs="+", default=(), metavar="KEY VALUE", help="overrides of the config of balanced_lvis")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"],
        help="default: cuda if available, otherwise cpu")  # fmt: skip
    add("--batch", type=int, help="batch size; default: 2 for training and 1 for inference")
    add("--iterations", type=int, default=Options.iterations, help="measured steps per process; default: %(default)s")
    add("--rounds", type=int, default=Options.rounds, help="measurements per contender; default: %(default)s")
    add("--images", type=int, default=Options.images, help="images of the largest evaluation; default: %(default)s")
    add("--annotations", type=int, default=Options.annotations,
        help="annotations in the file of the startup suite; default: %(default)s")  # fmt: skip
    add("--coco", type=Path,
        help="folder of COCO for the mapper suite; default: coco in the datasets folder")  # fmt: skip
    add("--json", type=Path, help="write the rows to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
