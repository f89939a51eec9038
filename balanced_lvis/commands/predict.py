"""The command ``predict``: detection of objects in images, drawn and written as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from PIL import Image
from tqdm import tqdm

from ..console.command_line import command_line, log_to_screen
from ..console.printing import print_text
from ..prediction.input_images import find_images, output_paths
from ..prediction.predictor import Prediction, Predictor, attempt, predictions
from ..utils.errors import InputError, StorageError
from ..utils.io import replacing, write_json_list
from ..utils.storage import check_output, clear_output_errors
from .overrides import split_overrides
from .parsers import OVERRIDES, add_config_arguments, new_parser, overrides_of

DESCRIPTION = """\
Detect objects in images: draw masks, class names and scores, and write them as JSON.

    %(prog)s --weights output/r50_balanced_sigmoid/model_final.pth --input photos/*.jpg
    %(prog)s --weights model.pth --config-file r50_rfs --input photos/ --json found.json
    %(prog)s --weights model.pth --input photos/ MODEL.DEVICE cpu     # overrides of the config come last
"""
SHOWN = 20  # images per kind of problem that the last message names


@command_line
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    log_to_screen()
    others, overrides = split_overrides(args.input[1:])
    paths = find_images([args.input[0], *others])
    outputs = output_paths(paths, args.output)
    for path in [*outputs[:1], *filter(None, [args.json])]:
        check_output(path)
    predictor = Predictor.from_checkpoint(
        args.weights,
        args.config_file,
        [*overrides, *overrides_of(args)],
        threshold=args.threshold,
        thresholds=args.thresholds,
        classes=args.classes,
        trust=args.trust,
    )
    work = _Work(predictor, paths, outputs)
    work.write(args.json)
    hint = "" if work.found else "; a lower --threshold shows more"
    print_text(f"{work.found} objects in {len(paths) - len(work.broken)} images, drawn in {args.output}{hint}")
    if problems := work.problems():
        raise InputError("\n".join(problems))


@dataclass
class _Work:
    """
    Attributes:
        paths: images to predict.
        outputs: file for each drawn image.
        broken: a line for each image that could not be read or predicted.
        not_drawn: a line for each image that could not be drawn.
        found: number of objects so far.
    """

    predictor: Predictor
    paths: Sequence[str]
    outputs: Sequence[str]
    broken: list[str] = field(default_factory=list)
    not_drawn: list[str] = field(default_factory=list)
    found: int = 0
    _full: StorageError | None = None

    def write(self, json_file: str | None) -> None:
        """
        Draws all images and writes the objects to ``json_file``.

        Raises:
            StorageError: if the disk is full; the JSON then has what was predicted before.
        """
        if json_file:
            with clear_output_errors(json_file):
                write_json_list(json_file, self._records())
        else:
            for _ in self._records():
                pass
        if self._full:
            raise self._full

    def problems(self) -> list[str]:
        return [
            f"{len(lines)} of {len(self.paths)} images {words}:\n  " + "\n  ".join(lines[:SHOWN])
            for lines, words in (
                (self.broken, "were skipped"),
                (self.not_drawn, "could not be drawn; --json has them"),
            )
            if lines
        ]

    def _records(self) -> Iterator[list[dict]]:
        names = self.predictor.class_names
        results = predictions(self.predictor, self.paths, self.broken)
        for prediction, output in zip(tqdm(results, total=len(self.paths), unit="image", disable=None), self.outputs):
            if prediction is None:
                continue
            self.found += len(prediction.scores)
            yield [prediction.to_dict(names)]
            try:
                attempt(prediction.path, self.not_drawn, _draw, prediction, names, output)
            except StorageError as error:
                self._full = error  # raised once the JSON is written
                return


def _draw(prediction: Prediction, class_names: list[str], output: str) -> None:
    with clear_output_errors(output), replacing(output, "wb") as file:
        kind = "PNG" if output.lower().endswith(".png") else "JPEG"
        Image.fromarray(prediction.draw(class_names)).save(file, kind, quality=92)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("predict", DESCRIPTION)
    add = parser.add_argument
    add("--weights", required=True, help="checkpoint of a trained model")
    add_config_arguments(parser, "config of the model (default: config.yaml next to the checkpoint)")
    add("--input", required=True, nargs="+", help="images, folders, or quoted patterns")
    add("--output", default="predictions", help="folder of the drawn images (default: %(default)s)")
    add("--json", metavar="FILE", help="also write boxes, classes, scores and RLE masks to this file")
    add(
        "--threshold",
        type=float,
        default=0.5,
        help="minimum score of objects to draw and write (default: %(default)s)",
    )
    add("--thresholds", metavar="FILE",
        help="minimum score of each class, from the thresholds.json of analyze-results; --threshold is used for "
        "classes without one")  # fmt: skip
    add("--classes", metavar="NAME_OR_JSON",
        help="class names for a checkpoint without them: a registered dataset, such as lvis_v1_val, or an annotation "
        "file")  # fmt: skip
    add(
        "--trust",
        action="store_true",
        help="allow the checkpoint to run code when loaded; only for files that you trust",
    )
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help=f"{OVERRIDES}, such as MODEL.DEVICE cpu")
    return parser
