"""Detectron2's checkpointer with safe loading."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import parse_qs

from detectron2.checkpoint import DetectionCheckpointer

from ...utils.errors import InputError
from .checkpoint_file import READ_AVERAGED, read_checkpoint
from .mmdetection import is_mmdetection
from .resnets import is_resnet
from .settings import contradicted, in_words, read_settings

logger = logging.getLogger(__name__)

_OTHER_SETTINGS = (
    "MODEL.WEIGHTS {!r} was trained with other settings than those of the config; with these, its results are wrong. "
    "Set {}. (configs/base/torchvision_weights.yaml has those of images.)"
)


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
            InputError: if the file is not a checkpoint, needs ``trust`` or must be converted first.
        """
        try:
            return super().load(path, *args, **kwargs)
        finally:
            self._parsed_url_during_load = None  # otherwise the next load would fail, too

    def _load_file(self, filename):
        content = read_checkpoint(filename, self.trust)
        if averaged := content.pop(READ_AVERAGED, None):
            logger.warning("%s: the weights are %r, a moving average, as the file has no others", filename, averaged)
        query = parse_qs(getattr(self._parsed_url_during_load, "query", ""))
        if query.pop("matching_heuristics", ["False"]) == ["True"]:
            content["matching_heuristics"] = True
        if query:
            raise InputError(
                f"MODEL.WEIGHTS {self._parsed_url_during_load.geturl()!r}: unknown query parameter {', '.join(query)}; "
                "valid: matching_heuristics=True."
            )
        self._check_layout(filename, content)
        if other := contradicted(read_settings(content, f"MODEL.WEIGHTS {filename!r}"), self.model):
            self._report(_OTHER_SETTINGS.format(filename, in_words(other)))
        return content

    def _check_layout(self, filename: str, content: dict) -> None:
        """
        Raises:
            InputError: for names of another program, of which Detectron2 would only log that it uses none.
        """
        state = content["model"]
        if content.get("matching_heuristics") or not (is_resnet(state) or is_mmdetection(state)):
            return
        if state.keys().isdisjoint(self.model.state_dict()):
            raise InputError(
                f"MODEL.WEIGHTS {filename!r} has the names of torchvision, timm or mmdetection, none of which the "
                "model has; convert it with `balanced-lvis convert INPUT OUTPUT` first."
            )

    def _report(self, message: str) -> None:
        logger.warning(message)
