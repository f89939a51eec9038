#!/usr/bin/env python
"""Writes statistics of the logits of a checkpoint: the command ``balanced-lvis collect-logits``."""

if __name__ in ("__main__", "__mp_main__"):
    import _early_signals  # noqa: F401  before imports that take seconds

import sys

from balanced_lvis.commands.collect_logits import main

if __name__ == "__main__":
    sys.exit(main())
