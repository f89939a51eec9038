"""Readers of annotation files in COCO or LVIS format: records, columns of annotations, class names and class counts."""
