#!/usr/bin/env python
"""Kills training runs and feeds broken files to parsers: ``python -m soak``."""

import sys

import _checkout  # noqa: F401

from soak.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
