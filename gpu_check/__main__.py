"""The command line of the GPU check: ``tools/gpu_check.py`` or ``python -m gpu_check``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from balanced_lvis.console.command_line import command_line
from balanced_lvis.console.printing import print_text
from balanced_lvis.experiments.methods import METHODS
from balanced_lvis.utils.io import write_json

from . import CHECKS, FAILED, Context, run_checks

ROOT = Path(__file__).resolve().parents[1]
DESCRIPTION = """\
Check that everything works on a machine with a GPU and gives the same results. Takes at most ten minutes.

    tools/gpu_check.py [--json gpu_check.json] [--only CHECK ...] [--skip CHECK ...]

Prints one line per check. The exit status is 1 if one failed. The JSON file has versions, errors and measurements to
attach to a bug report.
"""


@command_line(prints_result=True)
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    checks = {name: check for name, check in CHECKS.items() if name in args.only and name not in args.skip}
    results = []
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        context = Context(args.device, Path(folder), ROOT, tuple(args.methods))
        for result in run_checks(checks, context):
            print_text(result.line())
            results.append(result)
            if args.json:
                write_json(args.json, [one.as_dict() for one in results], indent=1)
    failed = [result.name for result in results if result.status == FAILED]
    if failed:
        print(f"{len(failed)} of {len(results)} checks failed: {', '.join(failed)}", flush=True)
        raise SystemExit(1)
    print(f"All {len(results)} checks passed or were skipped.", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/gpu_check.py", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=CHECKS, default=list(CHECKS), metavar="CHECK", help=", ".join(CHECKS))
    add("--skip", nargs="+", choices=CHECKS, default=[], metavar="CHECK", help="checks to skip")
    add("--methods", nargs="+", choices=METHODS, default=[], metavar="METHOD",
        help=f"methods of the check 'methods' (default: {', '.join(METHODS)})")  # fmt: skip
    add("--device", default="cuda", choices=["cuda", "cpu"], help="device; cpu is for testing the checks themselves")
    add("--json", type=Path, help="write results and measurements to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
