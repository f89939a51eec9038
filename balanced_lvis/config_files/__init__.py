"""
Config files and overrides of any config: lookup by name, ``_BASE_``, ``IMPORTS``, merging and clear errors.

The keys are in :mod:`balanced_lvis.config` for detection, and in :mod:`balanced_lvis.classification.config` for image
classification.
"""
