"""
Index of LVIS annotation files: a compact memory-mapped file that replaces parsing the JSON at every start.

The index of ``x.json`` is ``x.json.index``, or in ``$XDG_CACHE_HOME/balanced_lvis`` (``~/.cache/balanced_lvis``) if
that folder isn't writable. The first process that needs it builds it, and others wait for it. If no folder is writable,
a warning is logged, and the JSON is loaded by Detectron2.

An index is up to date if it has recorded the file's size and modification time. If only the time differs, the SHA-256
of the contents decides. With ``BALANCED_LVIS_INDEX=verify``, the SHA-256 is compared at every start, which also detects
files that were modified without a change of size and time. To rebuild an index, delete it.
``BALANCED_LVIS_INDEX=off`` disables indexes.
"""

from .image_records import ChainedRecords, LVISRecords
from .opening import MODE, find_index, open_index

__all__ = ["MODE", "ChainedRecords", "LVISRecords", "find_index", "open_index"]
