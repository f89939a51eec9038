#!/usr/bin/env python
"""
Expected throughput on many GPUs, from the step time of one: a model, not a measurement. docs/scaling.md explains it.

    tools/scaling.py --config-file configs/r50_balanced_sigmoid.yaml --step-seconds 0.4 --gpus 8 64 256
"""

import argparse
import dataclasses
import sys

import _checkout  # noqa: F401
from tabulate import tabulate

from balanced_lvis.config import load_config
from balanced_lvis.console.command_line import command_line
from balanced_lvis.utils.errors import InputError
from benchmarks.throughput_model import Cluster, gradient_bytes, predict

HELP = {
    "images": "images of a GPU in a step",
    "gpus_per_node": "GPUs of a machine",
    "node_bandwidth": "bytes/s between GPUs of a machine",
    "network_bandwidth": "bytes/s of a machine's network",
    "latency": "seconds from a GPU to the next",
    "backward_share": "share of the step in which gradients are exchanged",
    "bucket_bytes": "of gradients that are exchanged at a time",
    "variation": "standard deviation of step seconds over their mean",
}


@command_line(prints_result=True)
def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="whose model is trained, for its schedule")
    parser.add_argument("--step-seconds", type=float, required=True, help="of one GPU alone, measured")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 256])
    defaults = {field.name: field.default for field in dataclasses.fields(Cluster) if field.name in HELP}
    for name, default in defaults.items():
        text = f"{HELP[name]} ({default:g})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=text)
    args = parser.parse_args(arguments)
    if min(args.gpus) < 1:
        raise InputError(f"--gpus is {args.gpus}; use 1 or more.")
    cfg = load_config(args.config_file, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    inputs = {name: getattr(args, name) for name in defaults}
    cluster = Cluster(args.step_seconds, gradient_bytes(cfg), **inputs)
    print("  ".join(f"{name} {value:g}" for name, value in dataclasses.asdict(cluster).items()))
    images = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH
    found = [predict(cluster, gpus) for gpus in args.gpus]
    rows = [
        (p.gpus, p.gpus * cluster.images, 1e3 * p.compute, 1e3 * p.exchange, 1e3 * p.exposed, p.images_per_second,
         100 * p.efficiency, images / p.images_per_second / 3600)
        for p in found
    ]  # fmt: skip
    headers = ("GPUs", "batch", "compute ms", "exchange ms", "exposed ms", "images/s", "efficiency %", "schedule h")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=("d", "d", ".0f", ".1f", ".1f", ".0f", ".1f", ".1f")))


if __name__ == "__main__":
    sys.exit(main())
