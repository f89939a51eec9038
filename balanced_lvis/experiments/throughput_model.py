"""
Model of the training throughput on many GPUs. Its inputs are a few measurements and all assumptions.

The time of a step with W processes is the compute time of the slowest process plus the part of the gradient exchange
that does not overlap with the backward pass. The exchange is a ring all-reduce of B bytes: 2 (W - 1) / W * B over the
slowest link, plus 2 (W - 1) times the latency of a link.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from detectron2.modeling import build_model

from ..utils.errors import InputError


@dataclass(frozen=True)
class Cluster:
    """
    Inputs of the prediction.

    Attributes:
        step_seconds: measured time of a step of one process, without communication.
        gradient_bytes: bytes of gradients per step; see :func:`gradient_bytes`.
        images: images per process and step.
        gpus_per_node: processes per machine.
        node_bandwidth: bytes per second between two GPUs of a machine.
        network_bandwidth: bytes per second between two machines, for all their GPUs together.
        latency: latency from one GPU to the next in seconds.
        backward_share: fraction of the step during which gradients can be exchanged.
        bucket_bytes: bytes per exchange; the last bucket does not overlap with the backward pass.
        variation: standard deviation of the step time divided by its mean, as images differ in size.
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
class PredictedThroughput:
    """
    Attributes:
        gpus: W.
        compute: compute time of the slowest process in seconds.
        exchange: time of the all-reduce in seconds.
        exposed: part of the exchange that does not overlap with the backward pass, in seconds.
        images_per_second: throughput of the job.
        efficiency: throughput divided by W times that of a single process.
    """

    gpus: int
    compute: float
    exchange: float
    exposed: float
    images_per_second: float
    efficiency: float

    @property
    def step_seconds(self) -> float:
        """Time of an iteration of the job in seconds."""
        return self.compute + self.exposed


def predict(cluster: Cluster, gpus: int) -> PredictedThroughput:
    """
    Args:
        cluster: inputs of the prediction.
        gpus: W, at least 1.
    """
    exchange = all_reduce_seconds(cluster, gpus)
    # Of W normal variables the largest is about sqrt(2 ln W) standard deviations above the mean, at most.
    compute = cluster.step_seconds * (1 + cluster.variation * math.sqrt(2 * math.log(gpus)))
    last_bucket = exchange * min(1.0, cluster.bucket_bytes / cluster.gradient_bytes)
    exposed = max(last_bucket, exchange - cluster.backward_share * cluster.step_seconds)
    rate = gpus * cluster.images / (compute + exposed)
    return PredictedThroughput(
        gpus, compute, exchange, exposed, rate, rate / (gpus * cluster.images / cluster.step_seconds)
    )


def all_reduce_seconds(cluster: Cluster, gpus: int) -> float:
    """Time of a ring all-reduce over all GPUs that crosses each network link once in each direction."""
    bandwidth = cluster.node_bandwidth
    if gpus > cluster.gpus_per_node:
        bandwidth = min(bandwidth, cluster.network_bandwidth)
    return 2 * (gpus - 1) / gpus * cluster.gradient_bytes / bandwidth + 2 * (gpus - 1) * cluster.latency


def gradient_bytes(cfg) -> int:
    """Bytes that DistributedDataParallel exchanges in an update: four for each trained parameter."""
    return sum(p.numel() * p.element_size() for p in build_model(cfg).parameters() if p.requires_grad)
