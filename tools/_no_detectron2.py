"""Imported before ``balanced_lvis`` by tools that need no Detectron2: importing the package does not import it then."""

import _checkout  # noqa: F401

from balanced_lvis_cli import import_without_detectron2

import_without_detectron2()
