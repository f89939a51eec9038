"""What the argument parsers of all commands share."""

from __future__ import annotations

import argparse
import os
import sys

CONFIG_FILE = "path of a yaml file, or name of a config that comes with balanced_lvis"
OVERRIDES = "KEY VALUE overrides of the config"


def new_parser(command: str, description: str) -> argparse.ArgumentParser:
    """
    Args:
        command: name of the command in ``balanced-lvis``.
        description: shown with its line breaks; ``%(prog)s`` stands for how the command was started.
    """
    return argparse.ArgumentParser(
        prog=program(command), description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def program(command: str) -> str:
    """How the command was started: ``balanced-lvis NAME``, or the script in ``tools/``."""
    folder, script = os.path.split(sys.argv[0])
    if script.endswith(".py") and os.path.basename(os.path.abspath(folder)) == "tools":
        return f"tools/{script}"
    return f"balanced-lvis {command}"
