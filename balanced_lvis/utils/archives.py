"""Size limits for members of untrusted zip archives."""

from __future__ import annotations

import zipfile

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_CONSTANT = 64 << 20  # bytes allowed for any member
_FACTOR = 200  # plus this multiple of the compressed size; annotations and results compress 5 to 10 times


def check_member(member: zipfile.ZipInfo) -> None:
    """
    Check the declared size and the compression method of a member. zipfile enforces the declared size.

    Raises:
        BadZipFile: if the member is far larger than its compressed size, or if its compression method is not deflate.
            The tables of other methods can take gigabytes.
    """
    if member.compress_type not in _METHODS:
        raise zipfile.BadZipFile(f"{member.filename!r:.80} has an unsupported compression method; use deflate")
    if member.file_size > _CONSTANT + _FACTOR * member.compress_size:
        raise zipfile.BadZipFile(
            f"{member.filename!r:.80} expands from {member.compress_size:,} to {member.file_size:,} bytes, more than "
            "JSON files do"
        )
