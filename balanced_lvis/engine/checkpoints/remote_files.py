"""Download of files that ``MODEL.WEIGHTS`` names by URL, resumed if interrupted."""

from __future__ import annotations

import logging
import os
from urllib.parse import urlparse

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import HTTPURLHandler, file_lock, get_cache_dir

from ...data.lvis_v1.download import download
from ...utils.errors import InputError

logger = logging.getLogger(__name__)


class _DownloadHandler(HTTPURLHandler):
    """iopath's handler with the same cache, but with time-outs, resumed downloads, and redirects to http(s) only."""

    def _get_local_path(self, path, force=False, cache_dir=None, **kwargs):
        self._check_kwargs(kwargs)
        cached = _place(path, get_cache_dir(cache_dir))
        os.makedirs(os.path.dirname(cached), exist_ok=True)
        with file_lock(cached):
            if force or not os.path.isfile(cached):
                logger.info("Downloading %s to %s", path, cached)
                download(path, cached)
        return cached


def _place(url: str, cache: str) -> str:
    """
    Raises:
        InputError: if the URL names no file, or a file outside the cache.
    """
    folder, name = os.path.dirname(urlparse(url).path.lstrip("/")), url.rsplit("/", 1)[-1]
    if not name or ".." in (*folder.split("/"), name):
        raise InputError(f"{url} is not the URL of a file; give the URL of a checkpoint.")
    return os.path.join(cache, folder, name)


def register() -> None:
    """Make Detectron2 download files with this handler."""
    PathManager.register_handler(_DownloadHandler(), allow_override=True)
