"""What reading files takes, limited in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

_CODE = """
import json, resource, sys
from balanced_lvis.utils.errors import InputError
{setup}
with open("/proc/self/statm") as file:
    taken = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + {limit}, taken + {limit}))
outcomes = []
for argument in json.load(sys.stdin):
    try:
        read(argument)
        outcomes.append("accepted")
    except InputError as error:
        outcomes.append(f"refused: {{error}}")
    except BaseException as error:
        outcomes.append(f"failed: {{type(error).__name__}}: {{error}}")
print(json.dumps(outcomes))
"""


def outcomes_within(limit: int, setup: str, arguments: Sequence) -> list[str]:
    """
    Call a parser that may take no more than ``limit`` bytes of address space on top of what its process takes.

    Args:
        limit: in bytes.
        setup: code that makes ``read``, the parser.
        arguments: of the calls, one after the other.

    Returns:
        for each "accepted", "refused: " and the message of an InputError, or "failed: " and another error, a
        MemoryError among them.
    """
    code = _CODE.format(setup=setup, limit=limit)
    arguments = json.dumps([str(argument) for argument in arguments])
    done = subprocess.run(
        [sys.executable, "-c", code], input=arguments, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
