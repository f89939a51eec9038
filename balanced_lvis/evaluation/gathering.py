"""Gathering of the stored detections of all processes on rank 0."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.utils import comm

from ..utils.checksums import Checksum, DamagedFileError, read_manifest, write_manifest
from ..utils.errors import StorageError
from .detection_store import FILES

SEND_BYTES = 1 << 26


def gather_on_main(folder: str | os.PathLike, files: Sequence[str] = FILES) -> None:
    """
    Append the files of all ranks to those of rank 0, in rank order. All ranks call this with their own closed folder.

    The bytes are sent over the process group, as several machines may not share a file system.

    Args:
        folder: folder of the files and their manifest.
        files: names of the files; by default those of a ``DetectionWriter``.

    Raises:
        StorageError: if the files of a rank are damaged.
    """
    if comm.get_world_size() == 1:
        return
    group = comm._get_global_gloo_group()  # NCCL can only send GPU memory
    checksums, damaged = _manifest(folder), []
    if not comm.is_main_process():
        for name in files:
            _send(Path(folder, name), checksums[name], group)
        return
    for name in files:
        for rank in range(1, comm.get_world_size()):
            if not _receive(Path(folder, name), rank, checksums[name], group):
                damaged.append(f"{name} of rank {rank}")
    if damaged:
        raise StorageError(
            f"Stored detections are damaged: {', '.join(damaged)}. Check the disks of all machines, then run "
            "the command again."
        )
    write_manifest(folder, checksums)


def _manifest(folder: str | os.PathLike) -> dict[str, Checksum]:
    try:
        return read_manifest(folder)
    except DamagedFileError as error:
        raise StorageError(
            f"Stored detections are damaged: {error}. Check the disk, then run the command again."
        ) from error


def _send(path: Path, checksum: Checksum, group) -> None:
    dist.send(torch.tensor([path.stat().st_size, checksum.size, checksum.crc32]), dst=0, group=group)
    with open(path, "rb") as file:
        while content := file.read(SEND_BYTES):
            dist.send(torch.frombuffer(bytearray(content), dtype=torch.uint8), dst=0, group=group)


def _receive(path: Path, rank: int, checksum: Checksum, group) -> bool:
    """Append the file of a rank, update ``checksum`` with it, and return whether it is intact."""
    numbers = torch.zeros(3, dtype=torch.int64)
    dist.recv(numbers, src=rank, group=group)
    left, size, crc32 = numbers.tolist()
    received = Checksum()
    with open(path, "ab") as file:
        while left:
            buffer = torch.empty(min(left, SEND_BYTES), dtype=torch.uint8)
            dist.recv(buffer, src=rank, group=group)
            content = buffer.numpy().tobytes()
            file.write(content)
            received.add(content)
            checksum.add(content)
            left -= len(content)
    return received == Checksum(size, crc32)
