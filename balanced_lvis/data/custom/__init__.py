"""
Data sets of one's own, from any annotation file in COCO or LVIS format, registered by the config.

:mod:`.convert` is the one place that knows of COCO's ways; all else reads the LVIS file that it writes.
"""
