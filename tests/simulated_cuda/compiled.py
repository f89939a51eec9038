"""Compiles ``guard.cpp`` once per user and torch, and loads it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("guard.cpp")
COMPILER = "g++"
STANDARDS = ("c++20", "c++17")  # what torch's headers need depends on its version


def load_guard() -> ctypes.CDLL:
    """
    The compiled ``guard.cpp``; loading it takes effect for this process.

    Raises:
        RuntimeError: if it can't be compiled, with the end of the compiler's messages.
    """
    content = SOURCE.read_bytes() + torch.__version__.encode()
    path = cache_folder() / f"simulated_cuda_{hashlib.sha256(content).hexdigest()[:16]}.so"
    if not path.exists():
        _compile(path)
    return ctypes.CDLL(str(path))


def cache_folder() -> Path:
    """A folder of this user's that exists: below ``XDG_CACHE_HOME`` or ``~/.cache``, or else a temporary one."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    for folder in (caches / "balanced_lvis", Path(tempfile.gettempdir(), f"balanced_lvis_{os.getuid()}")):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK):
            return folder
    raise RuntimeError("simulated_cuda: no folder to write the compiled device guard to; set XDG_CACHE_HOME.")


def _compile(path: Path) -> None:
    if shutil.which(COMPILER) is None:
        raise RuntimeError(f"simulated_cuda: {COMPILER} not found")
    package = Path(torch.__file__).parent
    includes = (package / "include", package / "include" / "torch" / "csrc" / "api" / "include")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # several processes may compile at the same time
        output = Path(folder, path.name)
        for standard in STANDARDS:
            command = [
                COMPILER, "-O1", "-shared", "-fPIC", f"-std={standard}",
                f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
                *(f"-I{include}" for include in includes),
                SOURCE, "-o", output, f"-L{package / 'lib'}", "-ltorch_cpu", "-lc10",
            ]  # fmt: skip
            done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
            if not done.returncode:
                os.replace(output, path)
                return
    raise RuntimeError(f"simulated_cuda: {SOURCE.name} can't be compiled:\n{done.stderr[-3000:]}")
