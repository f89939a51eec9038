"""
How fast a training would run on many GPUs: a model from a few measured numbers, with every assumption an input.

A step of W processes takes as long as its slowest process computes, and what of the gradients' exchange is not hidden
behind the backward pass. The exchange is a ring all-reduce of B bytes: 2 (W - 1) / W * B over the slowest link, and
2 (W - 1) times a link's latency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from detectron2.modeling import build_model

from ..utils.errors import InputError


@dataclass(frozen=True)
class Cluster:
    """
    What the prediction is made from.

    Attributes:
        step_seconds: of one process, for its own images, without any exchange; measured.
        gradient_bytes: that are exchanged; :func:`gradient_bytes` counts them.
        images: of a process in a step.
        gpus_per_node: processes of a machine.
        node_bandwidth: bytes per second that a GPU exchanges with another of its machine.
        network_bandwidth: bytes per second that a machine exchanges with another, for all its GPUs together.
        latency: seconds from one GPU to the next.
        backward_share: of the step, during which gradients can be exchanged.
        bucket_bytes: that are exchanged at a time; the last bucket can't be hidden.
        variation: standard deviation of the step's seconds over their mean: images differ in size.
    """

    step_seconds: float
    gradient_bytes: int
    images: int = 2
    gpus_per_node: int = 8
    node_bandwidth: float = 100e9
    network_bandwidth: float = 10e9
    latency: float = 10e-6
    backward_share: float = 0.6
    bucket_bytes: int = 25 << 20
    variation: float = 0.05

    def __post_init__(self):
        for name in (
            "step_seconds",
            "gradient_bytes",
            "images",
            "gpus_per_node",
            "node_bandwidth",
            "network_bandwidth",
        ):
            if not getattr(self, name) > 0:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be more than 0.")
        for name in ("latency", "backward_share", "bucket_bytes", "variation"):
            if not getattr(self, name) >= 0:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be 0 or more.")


@dataclass(frozen=True)
class Prediction:
    """
    Attributes:
        gpus: W.
        compute: seconds until the slowest process has computed.
        exchange: seconds of the all-reduce.
        exposed: of them, not hidden behind the backward pass.
        images_per_second: of the job.
        efficiency: of W times what one process does alone.
    """

    gpus: int
    compute: float
    exchange: float
    exposed: float
    images_per_second: float
    efficiency: float

    @property
    def step_seconds(self) -> float:
        """Of an iteration of the job."""
        return self.compute + self.exposed


def predict(cluster: Cluster, gpus: int) -> Prediction:
    """
    Args:
        cluster: the numbers to predict from.
        gpus: W, 1 or more.
    """
    exchange = all_reduce_seconds(cluster, gpus)
    # Of W normal variables the largest is about sqrt(2 ln W) standard deviations above the mean, at most.
    compute = cluster.step_seconds * (1 + cluster.variation * math.sqrt(2 * math.log(gpus)))
    last_bucket = exchange * min(1.0, cluster.bucket_bytes / cluster.gradient_bytes)
    exposed = max(last_bucket, exchange - cluster.backward_share * cluster.step_seconds)
    rate = gpus * cluster.images / (compute + exposed)
    return Prediction(gpus, compute, exchange, exposed, rate, rate / (gpus * cluster.images / cluster.step_seconds))


def all_reduce_seconds(cluster: Cluster, gpus: int) -> float:
    """Of a ring over all GPUs, machine after machine, which crosses each network link once in either direction."""
    bandwidth = cluster.node_bandwidth
    if gpus > cluster.gpus_per_node:
        bandwidth = min(bandwidth, cluster.network_bandwidth)
    return 2 * (gpus - 1) / gpus * cluster.gradient_bytes / bandwidth + 2 * (gpus - 1) * cluster.latency


def gradient_bytes(cfg) -> int:
    """What DistributedDataParallel exchanges in an update: four bytes for every parameter that trains."""
    return sum(p.numel() * p.element_size() for p in build_model(cfg).parameters() if p.requires_grad)
