"""The command ``scaling``: expected throughput on many GPUs."""

from __future__ import annotations

import argparse
import dataclasses

from tabulate import tabulate

from ..config import import_overrides, load_config
from ..console.command_line import command_line
from ..experiments.throughput_model import Cluster, gradient_bytes, predict
from ..utils.errors import InputError
from .parsers import add_config_arguments, new_parser

DESCRIPTION = """\
Predict the throughput on many GPUs from the step time on one: a model, not a measurement. See docs/scaling.md.

    %(prog)s --config-file r50_balanced_sigmoid --step-seconds 0.4 --gpus 8 64 256
"""
HELP = {
    "images": "images per GPU and step",
    "gpus_per_node": "GPUs per machine",
    "node_bandwidth": "bandwidth between the GPUs of a machine in bytes/s",
    "network_bandwidth": "network bandwidth of a machine in bytes/s",
    "latency": "latency between neighbouring GPUs in seconds",
    "backward_share": "fraction of the step during which gradients are exchanged",
    "bucket_bytes": "size of a gradient bucket in bytes",
    "variation": "standard deviation of the step time divided by its mean",
}


@command_line(prints_result=True)
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    if min(args.gpus) < 1:
        raise InputError(f"--gpus is {' '.join(map(str, args.gpus))}; each number must be 1 or more.")
    cfg = load_config(args.config_file, import_overrides(args.imports))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cluster = Cluster(args.step_seconds, gradient_bytes(cfg), **{name: getattr(args, name) for name in _defaults()})
    print("  ".join(f"{name} {value:g}" for name, value in dataclasses.asdict(cluster).items()))
    print(_table(cluster, args.gpus, images=cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH))


def _table(cluster: Cluster, gpus: list[int], images: int) -> str:
    rows = [
        (p.gpus, p.gpus * cluster.images, 1e3 * p.compute, 1e3 * p.exchange, 1e3 * p.exposed, p.images_per_second,
         100 * p.efficiency, images / p.images_per_second / 3600)
        for p in (predict(cluster, number) for number in gpus)
    ]  # fmt: skip
    headers = ("GPUs", "batch", "compute ms", "exchange ms", "exposed ms", "images/s", "efficiency %", "schedule h")
    return tabulate(rows, headers, tablefmt="github", floatfmt=("d", "d", ".0f", ".1f", ".1f", ".0f", ".1f", ".1f"))


def _defaults() -> dict:
    return {field.name: field.default for field in dataclasses.fields(Cluster) if field.name in HELP}


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("scaling", DESCRIPTION)
    add = parser.add_argument
    add_config_arguments(parser, "config of the model and its schedule", required=True)
    add("--step-seconds", type=float, required=True, help="measured step time on one GPU")
    add("--gpus", type=int, nargs="+", default=[1, 8, 64, 256], help="numbers of GPUs (default: 1 8 64 256)")
    for name, default in _defaults().items():
        add(f"--{name.replace('_', '-')}", type=type(default), default=default, help=f"{HELP[name]} ({default:g})")
    return parser
