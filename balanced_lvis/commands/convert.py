"""The command ``convert``: conversion of checkpoints between layouts."""

from __future__ import annotations

import argparse

from ..console.command_line import command_line
from ..console.printing import print_text
from ..data.annotations.class_names import class_names_of
from ..engine.checkpoints.conversion import FAMILIES, LAYOUTS, Conversion, convert_checkpoint
from ..engine.checkpoints.settings import in_words
from ..utils.text import one_line
from .parsers import new_parser

DESCRIPTION = """\
Convert checkpoints between the layouts of Detectron2, balanced_lvis, EQL and BALMS, and from mmdetection, torchvision
and timm.

    %(prog)s balms.pth converted.pth --classes lvis_v1_train    # K outputs to K+1
    %(prog)s model_zoo.pkl converted.pth --classes lvis_v1_train --activation softmax
    %(prog)s model_final.pth small.pth                          # without the state of the optimizer
    %(prog)s model_final.pth balms.pth --to no_background       # K+1 outputs to K
    %(prog)s mask_rcnn_r50_lvis.pth converted.pth               # of mmdetection
    %(prog)s resnet50.pth r50.pth                               # of torchvision or timm, as MODEL.WEIGHTS of a training
"""


@command_line
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    done = convert_checkpoint(
        args.input, args.output, layout=args.to, family=args.activation, num_classes=args.num_classes, trust=args.trust,
        class_names=class_names_of(args.classes) if args.classes else None,
    )  # fmt: skip
    for step in done.steps:
        print_text(step)
    if done.dropped:
        print_text(f"left out: {', '.join(map(one_line, done.dropped))}")
    if done.settings:
        print_text(f"settings: {in_words(done.settings)}")
    print_text(f"{_content(done)}; {done.num_tensors} tensors in {args.output}")


def _content(done: Conversion) -> str:
    if not done.num_classes:
        return "a backbone"
    names = "class names written" if done.class_names else "class names unknown; --classes writes them"
    return f"{done.num_classes} classes, {names}; {one_line(done.family)}"


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("convert", DESCRIPTION)
    add = parser.add_argument
    add("input",
        help="checkpoint of balanced_lvis, Detectron2 (.pth, or .pkl of its model zoo), EQL, BALMS, mmdetection (Mask "
        "or Faster R-CNN), a ResNet of torchvision or timm, or EfficientNet-Lite0")  # fmt: skip
    add("output", help="file to write: .pth, or .pkl for the format of the model zoo")
    add("--to", choices=LAYOUTS, default="balanced_lvis",
        help="layout to write: balanced_lvis (default) has K+1 outputs, like Detectron2; no_background has K outputs, "
        "like EQL and BALMS")  # fmt: skip
    add("--classes", metavar="NAME_OR_JSON",
        help="classes of a checkpoint that doesn't name them: a registered dataset, such as lvis_v1_train, or an "
        "annotation file; the names are written to the output")  # fmt: skip
    add(
        "--num-classes",
        type=int,
        metavar="K",
        help="number of classes instead of --classes, if names are unknown",
    )
    add("--activation", choices=FAMILIES, help="activation of a classifier whose checkpoint doesn't name it")
    add(
        "--trust",
        action="store_true",
        help="allow the input to run code when loaded; only for files that you trust",
    )
    return parser
