"""What the simulated device of this process is, and what it counts."""

from __future__ import annotations

import collections
import functools
import json
import os
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_PACKAGE = str(Path(__file__).resolve().parent)
# Packages whose lines are reported as the place of a wait.
REPORTED = ("balanced_lvis", "detectron2")


class Wait(NamedTuple):
    """
    A place where the host waits for the device.

    Attributes:
        kind: such as "item", "D2H" (a copy to the CPU) or "nms".
        operator: that waits, such as "aten::nonzero".
        place: file and line.
    """

    kind: str
    operator: str
    place: str


class State:
    """
    Attributes:
        devices: how many there are: ``SIMCUDA_DEVICES``, or fewer by ``CUDA_VISIBLE_DEVICES``.
        waits: number of waits by :class:`Wait`.
        operators: number of calls on the device, by operator.
        lacking_on_cpu: operators that were run in float32, as the CPU has no kernel for half precision.
        in_forked_process: whether this is one, where CUDA can't be used.
        sync_debug_mode: as set by ``torch.cuda.set_sync_debug_mode``: 0 none, 1 warnings, 2 errors.
        guard: the compiled library; None until the device is installed.
    """

    def __init__(self):
        self.devices = int(os.environ.get("SIMCUDA_DEVICES", 1))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            self.devices = min(self.devices, len([device for device in visible.split(",") if device]))
            os.environ["SIMCUDA_DEVICES"] = str(self.devices)  # for the compiled library and child processes
        self.waits: collections.Counter[Wait] = collections.Counter()
        self.operators: collections.Counter[str] = collections.Counter()
        self.lacking_on_cpu: collections.Counter[str] = collections.Counter()
        self.in_forked_process = False
        self.sync_debug_mode = 0
        self.guard = None

    def wait(self, kind: str, operator: str) -> None:
        """Count a wait of the host for the device."""
        self.waits[Wait(kind, operator, _place())] += 1
        if self.sync_debug_mode == 1:
            warnings.warn("called a synchronizing CUDA operation (simulated)", stacklevel=3)
        elif self.sync_debug_mode == 2:
            raise RuntimeError("called a synchronizing CUDA operation (simulated)")

    def reset(self) -> None:
        """Count from 0."""
        self.waits.clear()
        self.operators.clear()

    def save(self, path: str | os.PathLike) -> None:
        """Write all counts as JSON, for :func:`tests.simulated_cuda.running.read_waits`."""
        content = {
            "waits": [[*wait, times] for wait, times in self.waits.most_common()],
            "lacking_on_cpu": self.lacking_on_cpu.most_common(),
        }
        Path(path).write_text(json.dumps(content, indent=1), encoding="utf-8")


STATE = State()


def _place() -> str:
    """The innermost line of the reported packages, or else of any code but torch's and this package's."""
    frame, fallback = sys._getframe(2), None
    while frame is not None:
        name = short_path(frame.f_code.co_filename)
        if name is not None:
            place = f"{name}:{frame.f_lineno}"
            if any(part in REPORTED for part in name.split("/")[:-1]):
                return place
            fallback = fallback or place
        frame = frame.f_back
    return fallback or "?"


@functools.cache
def short_path(path: str) -> str | None:
    """Relative to the repository or to site-packages; None for torch, this package and code without a file."""
    folder, name = os.path.split(path)
    if path.startswith("<") or "/torch/" in path or (folder == _PACKAGE and not name.startswith("test_")):
        return None
    if "/site-packages/" in path:
        return path.rsplit("/site-packages/", 1)[1]
    return path[len(str(ROOT)) + 1 :] if path.startswith(f"{ROOT}/") else path
