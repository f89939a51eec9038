"""
LVIS-1.0 in Detectron2's layout: got, checked, and its images linked; `tools/prepare_lvis.py` is its command line.

    prepare("datasets")                       # downloads what is missing of the annotations
    for part in look("datasets"):             # only looks, and writes nothing
        print(part.name, part.state, part.remedy)
"""

from .lvis_files import ANNOTATIONS, AnnotationFile
from .prepare import prepare
from .status import Part, look, show

__all__ = ["ANNOTATIONS", "AnnotationFile", "Part", "look", "prepare", "show"]
