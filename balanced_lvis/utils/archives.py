"""Members of zip archives that anybody may have made: no more than what an archive of their kind holds."""

from __future__ import annotations

import zipfile

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_CONSTANT = 64 << 20  # bytes that any member may have
_FACTOR = 200  # of its compressed size, on top; JSON of annotations and results takes a fifth to a tenth


def check_member(member: zipfile.ZipInfo) -> None:
    """
    Look at what an archive says of a member, which zipfile holds it to.

    Raises:
        BadZipFile: if it would be far larger than its compressed size, or is compressed by a method other than
            deflate, whose tables could take gigabytes.
    """
    if member.compress_type not in _METHODS:
        raise zipfile.BadZipFile(f"{member.filename!r:.80} is compressed by another method than deflate")
    if member.file_size > _CONSTANT + _FACTOR * member.compress_size:
        raise zipfile.BadZipFile(
            f"{member.filename!r:.80} has {member.file_size:,} bytes from {member.compress_size:,} compressed ones, as "
            "no JSON has"
        )
