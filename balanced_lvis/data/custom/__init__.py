"""
Custom datasets: their registration, and conversion of annotation files in COCO or LVIS format to LVIS format, also for
evaluation.

Only :mod:`.convert` handles the differences between the formats. All other code reads the LVIS file that it writes.
"""
