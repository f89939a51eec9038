"""
Conversion of annotation files in COCO or LVIS format to LVIS format, for custom datasets and for evaluation.

Only :mod:`.convert` handles the differences between the formats. All other code reads the LVIS file that it writes.
"""
