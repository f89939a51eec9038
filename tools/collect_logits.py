#!/usr/bin/env python
"""Writes statistics of the logits of a checkpoint: the command ``balanced-lvis collect-logits``."""

import sys

from balanced_lvis.commands.collect_logits import main

if __name__ == "__main__":
    sys.exit(main())
