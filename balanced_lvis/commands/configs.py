"""The command ``configs``: list of the configs that can be loaded by name."""

from __future__ import annotations

from ..config_files.names import config_names
from ..console.command_line import command_line
from ..console.printing import print_text
from .parsers import new_parser

DESCRIPTION = """\
List the names that --config-file takes for the configs of balanced_lvis.

    %(prog)s            # all of them
    %(prog)s r50_       # names that contain a text
"""


@command_line(prints_result=True)
def main(arguments: list[str] | None = None) -> None:
    parser = new_parser("configs", DESCRIPTION)
    parser.add_argument("text", nargs="?", default="", help="list only names that contain this text")
    args = parser.parse_args(arguments)
    names = [name for name in config_names() if args.text in name]
    print_text("\n".join(names) if names else f"No name contains {args.text!r}.")
