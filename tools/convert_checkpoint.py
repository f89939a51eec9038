#!/usr/bin/env python
"""
Convert checkpoints between the layouts of Detectron2, balanced_lvis, EQL and BALMS.

    tools/convert_checkpoint.py balms.pth ours.pth --classes lvis_v1_train            # K outputs to K+1
    tools/convert_checkpoint.py model_zoo.pkl ours.pth --classes lvis_v1_train --activation softmax
    tools/convert_checkpoint.py model_final.pth small.pth                             # without the optimizer's state
    tools/convert_checkpoint.py model_final.pth balms.pth --to no_background          # K+1 outputs to K
"""

import argparse
import sys

from balanced_lvis.console.command_line import command_line
from balanced_lvis.console.printing import print_text
from balanced_lvis.data.class_names import class_names_of
from balanced_lvis.engine.checkpoints.conversion import FAMILIES, LAYOUTS, convert_checkpoint
from balanced_lvis.utils.text import one_line


@command_line
def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="checkpoint of ours, Detectron2 (.pth or the model zoo's .pkl), EQL or BALMS")
    parser.add_argument("output", help="file to write: .pth, or .pkl for the model zoo's format")
    parser.add_argument(
        "--to", choices=LAYOUTS, default="balanced_lvis", help="balanced_lvis: K+1 outputs, Detectron2's and ours "
        "(default); no_background: K outputs, those of EQL and BALMS",
    )  # fmt: skip
    parser.add_argument(
        "--classes", metavar="NAME_OR_JSON", help="the classes that it was trained for, where it doesn't tell: a "
        "registered data set's, such as lvis_v1_train, or an annotation file's; written into the output",
    )  # fmt: skip
    parser.add_argument("--num-classes", type=int, metavar="K", help="instead of --classes; names stay unknown")
    parser.add_argument(
        "--activation", choices=FAMILIES, help="what the classifier was trained as, where it doesn't tell"
    )
    parser.add_argument(
        "--trust", action="store_true", help="let the input run code, if it needs to; only for files that you trust"
    )
    args = parser.parse_args(arguments)
    done = convert_checkpoint(
        args.input, args.output, layout=args.to, family=args.activation, num_classes=args.num_classes, trust=args.trust,
        class_names=class_names_of(args.classes) if args.classes else None,
    )  # fmt: skip
    for step in done.steps:
        print_text(step)
    if done.dropped:
        print_text(f"left out: {', '.join(map(one_line, done.dropped))}")
    names = "class names written" if done.class_names else "class names unknown; --classes writes them"
    print_text(f"{done.num_classes} classes, {names}; {done.family}; {done.num_tensors} tensors in {args.output}")


if __name__ == "__main__":
    sys.exit(main())
