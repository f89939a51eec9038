#!/usr/bin/env python
"""
Train or evaluate, with Detectron2's arguments.

    tools/train_net.py --config-file configs/r101_balanced_sigmoid.yaml --num-gpus 8
    tools/train_net.py --config-file configs/r50_rfs.yaml --eval-only MODEL.WEIGHTS output/r50_rfs/model_final.pth
"""

if __name__ in ("__main__", "__mp_main__"):
    import _early_signals  # noqa: F401  before imports that take seconds

import sys

from balanced_lvis.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
