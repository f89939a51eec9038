"""Shared parts of the argument parsers of all commands."""

from __future__ import annotations

import argparse
import os
import sys

from ..config_files.imports import add_import_argument, import_overrides
from ..utils.errors import InputError

YAML_FILE = "path of a yaml file, or name of a config that comes with balanced_lvis"
CONFIG_FILE = "path of a yaml file or a LazyConfig (.py), or name of a config that comes with balanced_lvis"
OVERRIDES = "KEY VALUE overrides of the config"  # of a yaml config
DETECTION_OVERRIDES = f"{OVERRIDES}, or key=value for a LazyConfig"


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


def add_config_arguments(parser: argparse.ArgumentParser, config: str, **options) -> None:
    """
    Adds ``--config-file`` and ``--import``.

    Args:
        parser: of a command, which also has its own argument for overrides.
        config: what the config is used for.
        options: for ``--config-file``, as of ``add_argument``; by default it may be left out.
    """
    options = options or {"default": ""}
    parser.add_argument("--config-file", metavar="CONFIG", help=f"{config}: {CONFIG_FILE}", **options)
    add_import_argument(parser)


def check_config_given(args: argparse.Namespace) -> None:
    """
    Args:
        args: a parsed command line with its ``opts``.

    Raises:
        InputError: if there is no config: neither ``--config-file`` nor overrides, apart from the weights.
    """
    if not args.config_file and set(args.opts[::2]) <= {"MODEL.WEIGHTS"}:
        raise InputError("--config-file is missing; name a config, such as r50_balanced_sigmoid.")


def overrides_of(args: argparse.Namespace) -> list[str]:
    """The overrides of a parsed command line, which ``--import`` is one of."""
    return [*args.opts, *import_overrides(args.imports)]
