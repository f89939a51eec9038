"""The commands of ``balanced-lvis``, one module each; ``tools/`` and :mod:`balanced_lvis_cli` call their ``main``."""
