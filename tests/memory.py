"""What reading files takes, limited in a process of its own."""

from __future__ import annotations

import resource
from collections.abc import Sequence

from balanced_lvis.utils.errors import InputError
from tests.engine.forking import context


def outcomes_within(limit: int, setup: str, arguments: Sequence) -> list[str]:
    """
    Call a parser that may take no more than ``limit`` bytes of address space on top of what its process takes.

    Args:
        limit: in bytes.
        setup: code that makes ``read``, the parser, and may use ``InputError``.
        arguments: of the calls, one after the other.

    Returns:
        for each "accepted", "refused: " and the message of an InputError, or "failed: " and another error, a
        MemoryError among them.
    """
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send_outcomes, args=(there, limit, setup, [*map(str, arguments)]))
    process.start()
    there.close()  # so that the end of the process ends the wait
    with here:
        outcomes = here.recv()
    process.join()
    return outcomes


def _send_outcomes(connection, limit: int, setup: str, arguments: list[str]) -> None:
    namespace: dict = {"InputError": InputError}
    exec(setup, namespace)
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + limit, hard))
    outcomes = [_outcome(namespace["read"], argument) for argument in arguments]
    resource.setrlimit(resource.RLIMIT_AS, (before, hard))
    connection.send(outcomes)


def _outcome(read, argument: str) -> str:
    try:
        read(argument)
    except InputError as error:
        return f"refused: {error}"
    except BaseException as error:
        return f"failed: {type(error).__name__}: {error}"
    return "accepted"
