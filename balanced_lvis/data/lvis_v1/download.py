"""Resumable download of large files over HTTP, with checksums."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from ...utils.errors import InputError
from ...utils.io import open_regular
from ...utils.storage import check_disk_space
from ...utils.text import one_line
from .lvis_files import OTHER_ROOT

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 60  # seconds without a byte
_ATTEMPTS = 4  # in a row that receive less than _CHUNK
_RESTARTS = 3  # from the beginning, because the server's response doesn't match the received part
_PAUSE = 1.0  # seconds before the second attempt, and twice as long before each further one
# Errors of the network, including urllib's and ssl's, which are OSErrors; and of invalid headers.
_FAILURES = (OSError, http.client.HTTPException, ValueError, OverflowError)
_NUMBER = r"(\d{1,18})"


class _AgainError(Exception):
    """A download that stopped before its end."""


class _RestartError(_AgainError):
    """A download that must restart: the received part has been deleted."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects to http and https only; urllib would also follow redirects to ftp."""

    def redirect_request(self, request, answer, code, message, headers, url):
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{request.full_url} redirects to {url:.200}, which is not an http or https URL.")
        return super().redirect_request(request, answer, code, message, headers, url)


_open = urllib.request.build_opener(_Redirects).open


def download(url: str, path: str | os.PathLike, md5: str = "") -> None:
    """
    Download a file. The received part is kept as ``path``.download. The next call resumes it, if the server supports
    that and the file there hasn't changed.

    Args:
        url: an http or https URL.
        path: path of the file, which is created when the download is complete, on disk and has the checksum.
        md5: hexadecimal MD5; "": no comparison.

    Raises:
        InputError: if it can't be downloaded, with URL and reason; if it can't be written or disk space is
            insufficient; if it has another checksum, even after a download from the beginning.
    """
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url} is not an http or https URL; it must start with https:// or http://.")
    path = Path(path)
    partial = path.with_name(f"{path.name}.download")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        begun = partial.exists()
        _complete(url, partial)
        found = file_md5(partial) if md5 else ""
        if found == md5:
            _tag_of(partial).unlink(missing_ok=True)
            os.replace(partial, path)
            return
        partial.unlink()
        if not begun:
            break
        logger.warning("%s was assembled from parts that don't match; it is downloaded again from the beginning", url)
    raise InputError(f"{url} has the MD5 {found}, but {md5} is published; try again later, or use another source.")


def file_md5(path: str | os.PathLike) -> str:
    """The hexadecimal MD5 of a file, computed with a progress bar."""
    digest = hashlib.md5(usedforsecurity=False)
    with open_regular(path) as file, _bar(f"Checking {Path(path).name}", os.path.getsize(path)) as bar:
        while data := file.read(_CHUNK):
            digest.update(data)
            bar.update(len(data))
    return digest.hexdigest()


def _complete(url: str, partial: Path) -> None:
    """Download the file into ``partial``, with further attempts as long as they make progress."""
    fruitless = restarts = 0
    furthest = _size(partial)
    while True:
        try:
            _attempt(url, partial)
            return
        except InputError:
            raise
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise InputError(f"{url} can't be downloaded: {error.code} {error.reason}.") from error
            reason = f"{error.code} {error.reason}"
        except (_AgainError, *_FAILURES) as error:
            cause = getattr(error, "reason", error)
            reason = str(cause) or type(error).__name__
            if isinstance(error, _RestartError):
                restarts, furthest = restarts + 1, 0
            if isinstance(cause, (socket.gaierror, ssl.SSLCertVerificationError)) and not furthest:
                raise InputError(
                    f"{url} can't be downloaded: {reason}."
                ) from error  # there is no network, or an untrusted one
        fruitless = 0 if _size(partial) >= furthest + _CHUNK else fruitless + 1
        furthest = max(furthest, _size(partial))
        if fruitless == _ATTEMPTS or restarts == _RESTARTS:
            kept = "The received part is kept; run" if _size(partial) else "Run"
            raise InputError(f"{url} can't be downloaded: {reason}. {kept} the command again later.")
        logger.info("%s: %s; retrying", url, reason)
        time.sleep(_PAUSE * 2 ** max(fruitless - 1, 0))


def _attempt(url: str, partial: Path) -> None:
    """
    Raises:
        _AgainError: if the download ended early.
    """
    start, tag = _size(partial), _read_tag(partial)
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        if tag:
            request.add_header("If-Range", tag)
    try:
        response = _open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if start and error.code == 416:
            _judge_end(error, partial, start)
            return
        raise
    with response:
        start, total = _part(response, partial, start)
        if total is not None:
            check_disk_space(partial.parent, total - start, url, OTHER_ROOT)
        _write_tag(partial, response.headers)
        _receive(response, partial, start, total, url)
    if not _size(partial):
        raise _AgainError("the server sent nothing")
    if total is not None and _size(partial) != total:
        raise _AgainError(f"the connection ended at {_size(partial):,} of {total:,} bytes")


def _part(response, partial: Path, start: int) -> tuple[int, int | None]:
    """The position of the response's first byte in the file, and the size of the file, if it is known."""
    length = response.headers.get("Content-Length")
    if length is not None and not re.fullmatch(_NUMBER, length.strip()):
        raise _AgainError(f"the server sent the Content-Length {length!r:.40}")
    if response.status == 200:
        return 0, None if length is None else int(length)  # from the beginning, whatever was requested
    if response.status != 206:
        raise _AgainError(f"the server responded with {response.status}")
    match = re.fullmatch(
        rf"bytes {_NUMBER}-{_NUMBER}/(?:{_NUMBER}|\*)", response.headers.get("Content-Range", "").strip()
    )
    if not match or int(match[1]) != start:
        _restart(partial, "the server sent another part than requested")
    if match[3]:
        return start, int(match[3])
    return start, None if length is None else start + int(length)


def _restart(partial: Path, reason: str) -> NoReturn:
    partial.unlink(missing_ok=True)
    raise _RestartError(reason)


def _receive(response, partial: Path, start: int, total: int | None, url: str) -> None:
    with _writing(partial), open(partial, "ab" if start else "wb", buffering=0) as file:
        with _bar(partial.stem, total, start) as bar:
            while data := _read(response):
                if total is None:  # it may never end
                    check_disk_space(partial.parent, len(data), url, OTHER_ROOT)
                file.write(data)
                bar.update(len(data))
        os.fsync(file.fileno())


def _read(response) -> bytes:
    try:
        return response.read(_CHUNK)
    except _FAILURES as error:
        raise _AgainError(str(error) or type(error).__name__) from error


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror or error}.") from error


def _judge_end(error: urllib.error.HTTPError, partial: Path, start: int) -> None:
    """The server has nothing from ``start`` on: the download is complete if the file ends there."""
    match = re.fullmatch(rf"bytes \*/{_NUMBER}", error.headers.get("Content-Range", "").strip())
    if not match or int(match[1]) != start:
        _restart(partial, "the file on the server differs from the received part")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _tag_of(partial: Path) -> Path:
    """Path of the tag that identifies the version of the file on the server."""
    return partial.with_name(f"{partial.name}.tag")


def _read_tag(partial: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return _tag_of(partial).read_text(encoding="ascii").strip()
    return ""


def _write_tag(partial: Path, headers) -> None:
    tag = headers.get("ETag", "")
    if not tag or tag.startswith("W/"):  # a weak one doesn't identify the bytes
        tag = headers.get("Last-Modified", "")
    with contextlib.suppress(UnicodeEncodeError):
        _tag_of(partial).write_text(tag, encoding="ascii")


def _bar(title: str, total: int | None, start: int = 0) -> tqdm:
    title = one_line(title)
    return tqdm(desc=title, total=total, initial=start, unit="B", unit_scale=True, unit_divisor=1024, disable=None)
