#!/usr/bin/env python
"""Measures balanced_lvis and the code that it replaces: ``python -m benchmarks``."""

import sys

import _checkout  # noqa: F401

from benchmarks.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
