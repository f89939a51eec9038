"""The one exception for input that a user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """
    A configuration, file or argument that balanced_lvis cannot work with.

    The message names the argument, the value it had and the remedy. Command lines print it without a
    traceback and exit with status 2.
    """
