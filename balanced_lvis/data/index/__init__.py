"""
LVIS annotations without parsing their JSON at every start: a compact index beside it, made once, mapped by all.

The index of ``x.json`` is ``x.json.index``, or in ``$XDG_CACHE_HOME/balanced_lvis`` (``~/.cache/balanced_lvis``) where
that folder can't be written to. The first process that needs it makes it, others wait for it; where no folder is
writable, a warning says so and the JSON is loaded as Detectron2 does.

An index is its file's if it has recorded the file's size and time of change; where only the time differs, the SHA-256
of the contents decides. A file altered without a change of either is noticed with ``BALANCED_LVIS_INDEX=verify``, which
compares the SHA-256 at every start; to make an index anew, delete it. ``BALANCED_LVIS_INDEX=off`` goes without.
"""

from .image_records import ChainedRecords, LVISRecords
from .opening import MODE, find_index, open_index

__all__ = ["MODE", "ChainedRecords", "LVISRecords", "find_index", "open_index"]
