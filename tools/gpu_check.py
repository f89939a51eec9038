#!/usr/bin/env python
"""Checks that everything works on a machine with a GPU: ``python -m gpu_check``."""

import sys

import _checkout  # noqa: F401

from gpu_check.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
