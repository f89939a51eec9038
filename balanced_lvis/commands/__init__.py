"""The commands of ``balanced-lvis``, one module each with a ``main``; ``tools/`` and :mod:`balanced_lvis_cli` call them."""
