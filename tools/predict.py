#!/usr/bin/env python
"""
Find objects in pictures: draw masks, class names and scores, and write them as JSON.

    tools/predict.py --weights output/r50_balanced_sigmoid/model_final.pth --input photos/*.jpg
    tools/predict.py --weights model.pth --config-file configs/r50_rfs.yaml --input photos/ --json found.json
    tools/predict.py --weights model.pth --input photos/ MODEL.DEVICE cpu     # overrides of the config come last
"""

import argparse
import sys

from PIL import Image
from tqdm import tqdm

from balanced_lvis.commands.overrides import split_overrides
from balanced_lvis.console.command_line import command_line, log_to_screen
from balanced_lvis.console.printing import print_text
from balanced_lvis.prediction.input_images import find_pictures, output_paths
from balanced_lvis.prediction.predictor import Predictor, attempt, predictions
from balanced_lvis.utils.errors import InputError, StorageError
from balanced_lvis.utils.io import replacing, write_json_list
from balanced_lvis.utils.storage import check_output, clear_output_errors

SHOWN = 20  # images of a kind of problem that the last message names


@command_line
def main(arguments=None) -> None:
    args = _parser().parse_args(arguments)
    log_to_screen()
    pictures, overrides = split_overrides(args.input)
    paths = find_pictures(pictures)
    outputs = output_paths(paths, args.output)
    for path in [*outputs[:1], *filter(None, [args.json])]:
        check_output(path)
    predictor = Predictor(
        args.weights,
        args.config_file,
        [*args.opts, *overrides, *args.overrides],
        threshold=args.threshold,
        classes=args.classes,
        trust=args.trust,
    )
    broken, not_drawn, found, full = [], [], 0, None

    def drawn():
        nonlocal found, full
        results = predictions(predictor, paths, broken)
        for prediction, output in zip(tqdm(results, total=len(paths), unit="image", disable=None), outputs):
            if prediction is None:
                continue
            found += len(prediction.scores)
            yield [prediction.to_dict(predictor.class_names)]
            try:
                attempt(prediction.path, not_drawn, _draw, prediction, predictor.class_names, output)
            except StorageError as error:
                full = error  # raised when the JSON is written
                return

    if args.json:
        with clear_output_errors(args.json):
            write_json_list(args.json, drawn())
    else:
        for _ in drawn():
            pass
    if full:
        raise full
    hint = "" if found else "; a lower --threshold shows more"
    print_text(f"{found} objects in {len(paths) - len(broken)} pictures, drawn in {args.output}{hint}")
    problems = [
        f"{len(lines)} of {len(paths)} pictures {words}:\n  " + "\n  ".join(lines[:SHOWN])
        for lines, words in ((broken, "were left out"), (not_drawn, "could not be drawn; --json has them"))
        if lines
    ]
    if problems:
        raise InputError("\n".join(problems))


def _draw(prediction, class_names, output: str) -> None:
    with clear_output_errors(output), replacing(output, "wb") as file:
        kind = "PNG" if output.lower().endswith(".png") else "JPEG"
        Image.fromarray(prediction.draw(class_names)).save(file, kind, quality=92)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="checkpoint of a trained model")
    parser.add_argument("--config-file", default="", help="by default the config.yaml in the checkpoint's folder")
    parser.add_argument("--input", required=True, nargs="+", help="pictures, folders, or quoted patterns")
    parser.add_argument("--output", default="predictions", help="folder of the drawn pictures (predictions)")
    parser.add_argument("--json", metavar="FILE", help="also write boxes, classes, scores and RLE masks")
    parser.add_argument("--threshold", type=float, default=0.5, help="the least score to be shown (0.5)")
    parser.add_argument(
        "--classes", metavar="NAME_OR_JSON", help="class names, where the checkpoint doesn't tell: a registered data "
        "set, such as lvis_v1_val, or an annotation file",
    )  # fmt: skip
    parser.add_argument("--trust", action="store_true", help="let the checkpoint run code, if it needs to")
    parser.add_argument("--opts", nargs="*", default=[], help=argparse.SUPPRESS)  # of older scripts
    parser.add_argument("overrides", nargs=argparse.REMAINDER, metavar="KEY VALUE",
                        help="overrides of the config, as MODEL.DEVICE cpu")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
