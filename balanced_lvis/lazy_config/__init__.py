"""
LazyConfigs of Detectron2: loading with overrides, and building of their parts, with clear errors.

Which config keys they set is in :mod:`balanced_lvis.config.lazy`.
"""
