"""``python -m tests.simulated_cuda SCRIPT ARGUMENTS``: Python with the simulated device; ``SIMCUDA_DEVICES`` is 1."""

import os
import sys

from tests.simulated_cuda.running import simulated_environment


def main() -> None:
    if not sys.argv[1:]:
        sys.exit("usage: [SIMCUDA_DEVICES=N] python -m tests.simulated_cuda SCRIPT|-m MODULE|-c CODE [ARGUMENTS ...]")
    devices = int(os.environ.get("SIMCUDA_DEVICES", 1))
    os.execve(sys.executable, [sys.executable, *sys.argv[1:]], simulated_environment(devices))


if __name__ == "__main__":
    main()
