"""Detectron2's checkpointer with safe loading."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from detectron2.checkpoint import DetectionCheckpointer

from ...utils.errors import InputError
from .checkpoint_file import read_checkpoint


class Checkpointer(DetectionCheckpointer):
    """
    ``DetectionCheckpointer`` that loads through
    :func:`balanced_lvis.engine.checkpoints.checkpoint_file.read_checkpoint`.

    Args:
        *args: as for ``DetectionCheckpointer``.
        trust: as for ``read_checkpoint``.
        **kwargs: as for ``DetectionCheckpointer``.
    """

    _parsed_url_during_load: Any  # set by Detectron2

    def __init__(self, *args, trust: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.trust = trust

    def load(self, path, *args, **kwargs):
        """
        Load a checkpoint as Detectron2 does.

        Raises:
            InputError: if the file is not a checkpoint, or needs ``trust``.
        """
        try:
            return super().load(path, *args, **kwargs)
        finally:
            self._parsed_url_during_load = None  # otherwise the next load would fail, too

    def _load_file(self, filename):
        content = read_checkpoint(filename, self.trust)
        query = parse_qs(getattr(self._parsed_url_during_load, "query", ""))
        if query.pop("matching_heuristics", ["False"]) == ["True"]:
            content["matching_heuristics"] = True
        if query:
            raise InputError(
                f"MODEL.WEIGHTS {self._parsed_url_during_load.geturl()!r}: unknown query parameter {', '.join(query)}; "
                "valid: matching_heuristics=True."
            )
        return content
