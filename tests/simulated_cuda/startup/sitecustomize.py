"""
Python imports this module when it starts, where its folder is on PYTHONPATH: with ``SIMCUDA=1``, a process has the
simulated device from its import of torch on. Processes that never import torch start as fast as ever.
"""

import importlib.abc
import importlib.util
import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[3])


class _InstallAfterTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_install(module):
            execute(module)
            if ROOT not in sys.path:
                sys.path.append(ROOT)
            from tests.simulated_cuda.installation import install

            install()

        spec.loader.exec_module = execute_and_install
        return spec


if os.environ.get("SIMCUDA") == "1":
    sys.meta_path.insert(0, _InstallAfterTorch())
