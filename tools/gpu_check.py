#!/usr/bin/env python
"""
Run this first on a machine with a GPU: does everything work there, and with the same results? At most ten minutes.

    tools/gpu_check.py [--json gpu_check.json] [--only CHECK ...] [--skip CHECK ...]

One line per check; status 1 if one failed. The JSON has versions, errors and measurements, to be sent with a report.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import _checkout  # noqa: F401

from balanced_lvis.console.command_line import command_line
from balanced_lvis.console.printing import print_text
from balanced_lvis.experiments.compare import METHODS
from balanced_lvis.utils.io import write_json
from gpu_check import CHECKS, FAILED, Context, run_checks

ROOT = Path(__file__).resolve().parents[1]


@command_line(prints_result=True)
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(CHECKS)
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), metavar="CHECK", help=names)
    parser.add_argument("--skip", nargs="+", choices=CHECKS, default=[], metavar="CHECK", help="checks to leave out")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[], metavar="METHOD",
                        help=f"of the check of this name; default: all of {', '.join(METHODS)}")  # fmt: skip
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu tries the checks themselves")
    parser.add_argument("--json", type=Path, help="write verdicts and measurements to this file")
    args = parser.parse_args(arguments)
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


if __name__ == "__main__":
    sys.exit(main())
