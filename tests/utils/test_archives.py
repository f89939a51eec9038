"""Archives and JSON of others: no more than their size allows."""

import json
import zipfile

import pytest

from balanced_lvis.data.lvis_v1.unpack import unpack
from balanced_lvis.utils.archives import check_member
from balanced_lvis.utils.errors import InputError
from soak.targets import targets
from tests.memory import outcomes_within

ANNOTATIONS = next(target.good for target in targets() if target.name == "annotations, validated")


def zipped(path, name, size, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive, archive.open(name, "w") as file:
        for _ in range(size >> 20):
            file.write(b" " * (1 << 20))
        file.write(b"[]")
    return path


@pytest.mark.parametrize(
    ("size", "method"), [(200 << 20, zipfile.ZIP_DEFLATED), (0, zipfile.ZIP_LZMA), (0, zipfile.ZIP_BZIP2)]
)
def test_an_archive_that_unfolds_too_far_or_is_of_another_method_is_refused(tmp_path, size, method):
    path = zipped(tmp_path / "x.zip", "x.json", size, method)
    with pytest.raises(InputError, match="can't be unpacked"):
        unpack(path, "x.json", tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()
    setup = f"""
from balanced_lvis.evaluation.submission import ImageList, validate_submission
images = ImageList({str(tmp_path / "images.json")!r})
def read(path):
    report = validate_submission(path, images)
    if report.errors:
        raise InputError(str(report))
"""
    (tmp_path / "images.json").write_bytes(ANNOTATIONS)
    (outcome,) = outcomes_within(300 << 20, setup, [path])
    assert outcome.startswith("refused") and "x.json" in outcome


def test_an_archive_of_the_usual_kind_is_taken(tmp_path):
    with zipfile.ZipFile(zipped(tmp_path / "x.zip", "x.json", 30 << 20)) as archive:
        check_member(archive.infolist()[0])
    unpack(tmp_path / "x.zip", "x.json", tmp_path / "x.json")
    assert (tmp_path / "x.json").stat().st_size == (30 << 20) + 2


def test_long_lists_that_nobody_reads_are_dropped_one_element_at_a_time(tmp_path):
    """As panoptic and video annotations have them: 18 MB that would take 420 MB."""
    path = tmp_path / "annotations.json"
    content = ANNOTATIONS.rstrip()[:-1]
    path.write_bytes(content + b', "others": [' + b"[]," * 6_000_000 + b"[]]}")
    setup = """
from balanced_lvis.data.validation import validate_annotations
def read(path):
    validate_annotations(path, '.')
"""
    assert outcomes_within(300 << 20, setup, [path]) == ["accepted"]


def test_an_annotation_without_end_is_refused_when_it_is_longer_than_any(tmp_path):
    path = tmp_path / "annotations.json"
    content = json.loads(ANNOTATIONS)
    del content["info"]
    whole = json.dumps(content).encode().rstrip()[:-1]
    path.write_bytes(whole + b', "info": "' + b"x" * (300 << 20))
    setup = """
from balanced_lvis.evaluation.submission import ImageList as read
"""
    (outcome,) = outcomes_within(900 << 20, setup, [path])
    assert outcome.startswith("refused") and "longer than" in outcome
