import platform
import subprocess
import sys

import pytest

from balanced_lvis.utils.memory_allocator import keep_freed_memory

CODE = """
import resource, sys
import torch
from balanced_lvis.utils.memory_allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**20 // 4)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults[4:]), max(faults[4:]))  # the heap has grown by then
"""


def faults_of_64_mb(mode: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE, mode], capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()[-2:]]


def test_a_gpu_needs_nothing_of_it():
    assert not keep_freed_memory("cuda")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again():
    fewest_without, _ = faults_of_64_mb("hand back")
    _, most_with = faults_of_64_mb("keep")
    assert most_with < 100
    assert fewest_without == 0 or fewest_without > most_with  # huge pages, or some systems, may have none to count
