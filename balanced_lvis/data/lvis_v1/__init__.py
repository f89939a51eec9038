"""
Download, check and linking of LVIS-1.0 in Detectron2's layout. The command line is `tools/prepare_lvis.py`.

    prepare("datasets")                       # downloads missing annotation files
    for part in look("datasets"):             # only checks, and writes nothing
        print(part.name, part.state, part.remedy)
"""

from .lvis_files import ANNOTATIONS, AnnotationFile
from .prepare import prepare
from .status import Part, look, show

__all__ = ["ANNOTATIONS", "AnnotationFile", "Part", "look", "prepare", "show"]
