"""Files behind addresses of the web, as ``MODEL.WEIGHTS`` may name them, got with the care of other downloads."""

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
    """As iopath's, with the same cache; it ends, resumes and follows redirects on the web only."""

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
        InputError: for an address that names no file, or one outside the cache.
    """
    folder, name = os.path.dirname(urlparse(url).path.lstrip("/")), url.rsplit("/", 1)[-1]
    if not name or ".." in (*folder.split("/"), name):
        raise InputError(f"{url} names no file that can be downloaded.")
    return os.path.join(cache, folder, name)


def register() -> None:
    """Have Detectron2 get files in this way, wherever it takes an address."""
    PathManager.register_handler(_DownloadHandler(), allow_override=True)
