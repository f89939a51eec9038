#!/usr/bin/env python
"""Predicts the throughput on many GPUs: the command ``balanced-lvis scaling``."""

import sys

from balanced_lvis.commands.scaling import main

if __name__ == "__main__":
    sys.exit(main())
