"""LVIS-1.0 is downloaded, checked and linked, and missing parts are reported with remedies."""

import dataclasses
import hashlib
import io
import json
import os
import sys
import zipfile
from pathlib import Path

import pytest

from balanced_lvis.commands import prepare_lvis
from balanced_lvis.data.lvis_v1 import ANNOTATIONS, download, look, prepare, show, unpack
from balanced_lvis.data.lvis_v1.lvis_files import AnnotationFile
from balanced_lvis.data.lvis_v1.prepare import link_folders
from balanced_lvis.utils.errors import InputError
from tests import programs
from tests.common import ROOT
from tests.data.lvis_v1.server import serving
from tests.data.validation.made import good

SPLITS = ("train", "val", "test_dev")
FOLDERS = {"train": ("train2017",), "val": ("train2017", "val2017"), "test_dev": ("test2017",)}


def content(split):
    """Three images, the last of them in the split's last folder."""
    made = good()
    for image, folder in zip(made["images"], (FOLDERS[split][0], FOLDERS[split][0], FOLDERS[split][-1])):
        image["coco_url"] = f"http://images.cocodataset.org/{folder}/{split}{image['id']}.jpg"
        del image["file_name"]
    if split == "test_dev":
        del made["annotations"]
    return made


def zipped(name, text, **others):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, what in others.items():
            archive.writestr(other, what)
        archive.writestr(name, text)
    return data.getvalue()


TEXTS = {split: json.dumps(content(split)) for split in SPLITS}
NAMES = {split: ANNOTATIONS[split].name for split in SPLITS}
ZIPS = {split: zipped(NAMES[split], TEXTS[split]) for split in SPLITS}
FILES = {
    split: AnnotationFile(
        NAMES[split],
        num_images=3,
        num_annotations=None if split == "test_dev" else 3,
        folders=FOLDERS[split],
        md5="" if split == "test_dev" else hashlib.md5(ZIPS[split]).hexdigest(),
        num_categories=2,
    )
    for split in SPLITS
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(download, "_PAUSE", 0)


@pytest.fixture
def server():
    with serving() as server:
        server.files.update({f"/{NAMES[split]}.zip": ZIPS[split] for split in SPLITS})
        yield server


def make_images(coco, splits=SPLITS):
    for split in splits:
        for image in content(split)["images"]:
            path = Path(coco, *image["coco_url"].split("/")[-2:])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def states(parts):
    return {part.name.split("/")[1]: part.state for part in parts}


def part_of(parts, name):
    return next(part for part in parts if part.name.endswith(name))


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


# ------------------------------------------------------------------ all is well


def test_annotations_are_got_and_images_linked(server, tmp_path):
    make_images(tmp_path / "elsewhere")
    root = tmp_path / "datasets"
    parts = prepare(root, coco=tmp_path / "elsewhere", url=server.url, files=FILES)
    assert all(part.ok for part in parts), show(parts)
    assert len(parts) == 6
    for split in SPLITS:
        assert (root / "lvis" / NAMES[split]).read_text() == TEXTS[split]
        assert (root / "lvis" / f"{NAMES[split]}.index").exists()  # which training would build at its first start
    assert not [name for name in listing(root) if name.endswith((".zip", ".download", ".tag", ".partial"))]
    assert os.path.realpath(root / "coco" / "val2017") == str(tmp_path / "elsewhere" / "val2017")
    assert part_of(parts, "lvis_v1_val.json").found == "3 images, 3 annotations, 2 categories"
    assert part_of(parts, "test_dev.json").found == "3 images, no annotations, 2 categories"
    assert part_of(parts, "train2017").found == "all 5 needed images (3 of train, 2 of val)"
    server.requests.clear()
    assert prepare(root, url=server.url, files=FILES) == parts
    assert server.requests == []


def test_looking_writes_nothing(server, tmp_path):
    root = tmp_path / "datasets"
    assert not any(part.ok for part in look(root, files=FILES))
    assert not root.exists()
    prepare(root, url=server.url, files=FILES)
    for path in (root / "lvis").glob("*.index"):
        path.unlink()
    before = listing(root)
    parts = look(root, files=FILES)
    assert part_of(parts, "train.json").ok
    assert listing(root) == before


def test_only_the_splits_that_are_asked_for_are_got(server, tmp_path):
    parts = prepare(tmp_path, ("val",), url=server.url, files=FILES)
    assert states(parts) == {"lvis_v1_val.json": "there", "train2017": "missing", "val2017": "missing"}
    assert [path for path, _ in server.requests] == ["/lvis_v1_val.json.zip"]


def test_validation_images_in_two_folders_are_explained(server, tmp_path):
    assert "val has most of its images from train2017" in show(look(tmp_path, files=FILES))
    parts = prepare(tmp_path, url=server.url, files=FILES)
    assert "val has 2 of its 3 images from train2017" in show(parts)


@pytest.mark.parametrize("zips", [True, False])
@pytest.mark.parametrize("folder", ["", "lvis"])
def test_files_that_were_brought_along_are_taken_without_a_network(tmp_path, zips, folder):
    source = tmp_path / "stick" / folder
    source.mkdir(parents=True)
    for split in SPLITS:
        if zips:
            (source / f"{NAMES[split]}.zip").write_bytes(ZIPS[split])
        else:
            (source / NAMES[split]).write_text(TEXTS[split])
    before = listing(source)
    parts = prepare(tmp_path / "datasets", source=tmp_path / "stick", url="http://127.0.0.1:9", files=FILES)
    assert [part.state for part in parts[:3]] == ["there"] * 3
    assert listing(source) == before


# ------------------------------------------------------------------ something isn't


def test_without_a_network_what_is_there_is_checked_and_the_rest_told(server, tmp_path):
    prepare(tmp_path, ("train",), url=server.url, files=FILES)
    make_images(tmp_path / "coco", ("train",))
    parts = prepare(tmp_path, url="http://127.0.0.1:9", files=FILES)
    assert states(parts) == {
        "lvis_v1_train.json": "there",
        "lvis_v1_val.json": "missing",
        "lvis_v1_image_info_test_dev.json": "missing",
        "train2017": "there",
        "val2017": "missing",
        "test2017": "missing",
    }
    assert "can't be downloaded" in part_of(parts, "val.json").found
    text = show(parts)
    assert "https://dl.fbaipublicfiles.com/LVIS/lvis_v1_val.json.zip" in text
    assert "http://images.cocodataset.org/zips/test2017.zip" in text
    assert "--from ITS_FOLDER" in text
    assert "the images of val are unknown without annotations" in part_of(parts, "train2017").found


def test_missing_images_are_counted_and_named(server, tmp_path):
    make_images(tmp_path / "coco")
    (tmp_path / "coco" / "train2017" / "val7.jpg").unlink()
    parts = prepare(tmp_path, url=server.url, files=FILES)
    part = part_of(parts, "train2017")
    assert part.state == "incomplete"
    assert part.found == "1 of 5 needed images are missing (3 of train, 2 of val): val7.jpg"
    assert part.remedy.endswith("coco/train2017 http://images.cocodataset.org/train2017/val7.jpg")
    assert sum(not part.ok for part in parts) == 1


def test_a_wrong_checksum_is_not_unpacked(server, tmp_path):
    files = {**FILES, "val": dataclasses.replace(FILES["val"], md5="0" * 32)}
    parts = prepare(tmp_path, ("val",), url=server.url, files=files)
    assert "has the MD5" in parts[0].found and parts[0].state == "missing"
    assert not (tmp_path / "lvis" / NAMES["val"]).exists()
    (tmp_path / "stick").mkdir()
    (tmp_path / "stick" / f"{NAMES['val']}.zip").write_bytes(ZIPS["val"])
    parts = prepare(tmp_path, ("val",), source=tmp_path / "stick", files=files)
    assert "has the MD5" in parts[0].found and parts[0].state == "missing"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (TEXTS["train"], "another version"),
        (TEXTS["val"][:-20], "JSON|LVIS format"),
        ("{}", "no 'images'"),
        (TEXTS["val"].replace("[[1.0", "[[1.0, 1.0]], [[1.0"), "JSON|LVIS format"),
        (TEXTS["val"].replace('"category_id": 90', '"category_id": 91'), "not in 'categories': 91 of annotation 2"),
        (TEXTS["val"].replace('"bbox": [1.0', '"bbox": [NaN'), "NaN"),
    ],
)
def test_a_wrong_file_stays_and_is_told(tmp_path, text, found):
    path = tmp_path / "lvis" / NAMES["val"]
    path.parent.mkdir()
    path.write_text(text)
    files = {"val": dataclasses.replace(FILES["val"], num_images=4)} if text == TEXTS["train"] else FILES
    for parts in (look(tmp_path, ("val",), files), prepare(tmp_path, ("val",), files=files)):
        assert parts[0].state == "wrong"
        assert any(word in parts[0].found for word in found.split("|")), parts[0].found
        assert f"rm {path}" in parts[0].remedy
    assert path.read_text() == text


def test_an_interrupted_preparation_goes_on(server, tmp_path, monkeypatch):
    server.cuts = [50, *[0] * 9]
    parts = prepare(tmp_path, ("val",), url=server.url, files=FILES)
    assert parts[0].state == "missing"
    server.cuts = []

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(unpack, "_copy", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path, ("val",), url=server.url, files=FILES)
    assert server.requests[-1] == ("/lvis_v1_val.json.zip", "bytes=50-")
    server.requests.clear()
    parts = prepare(tmp_path, ("val",), url=server.url, files=FILES)
    assert parts[0].ok
    assert server.requests == []  # the archive existed already


@pytest.mark.parametrize("name", ["../../{}", "/{}", "__MACOSX/._x/../{}", "C:\\{}", "a/b/{}"])
def test_an_archive_does_not_choose_where_its_files_go(tmp_path, name):
    archive, target = tmp_path / "in" / "x.zip", tmp_path / "in" / "root" / "x.json"
    target.parent.mkdir(parents=True)
    archive.write_bytes(zipped(name.format("x.json"), "{}"))
    try:
        unpack.unpack(archive, "x.json", target)
        assert target.read_text() == "{}"
    except InputError as error:
        assert "doesn't contain x.json" in str(error)
    assert set(listing(tmp_path)) <= {"in", "in/x.zip", "in/root", "in/root/x.json"}


@pytest.mark.parametrize("cut", [0, 10, 200, -30, -1])
def test_a_damaged_archive_is_told(tmp_path, cut):
    (tmp_path / "x.zip").write_bytes(ZIPS["val"][:cut])
    with pytest.raises(InputError, match=r"x\.zip can't be unpacked"):
        unpack.unpack(tmp_path / "x.zip", NAMES["val"], tmp_path / "x.json")
    assert listing(tmp_path) == ["x.zip"]


def test_an_altered_archive_is_told(tmp_path):
    data = bytearray(ZIPS["val"])
    data[len(data) // 2] ^= 0x41
    (tmp_path / "x.zip").write_bytes(bytes(data))
    with pytest.raises(InputError):
        unpack.unpack(tmp_path / "x.zip", NAMES["val"], tmp_path / "x.json")
    assert listing(tmp_path) == ["x.zip"]


def test_what_macos_adds_to_archives_is_passed_over(tmp_path):
    name = NAMES["val"]
    (tmp_path / "x.zip").write_bytes(zipped(name, "right", **{f"__MACOSX/{name}": "wrong"}))
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert len(archive.namelist()) == 2
    unpack.unpack(tmp_path / "x.zip", name, tmp_path / "x.json")
    assert (tmp_path / "x.json").read_text() == "right"


# ------------------------------------------------------------------ links


def test_folders_that_are_there_stay_and_dead_links_are_mended(tmp_path):
    make_images(tmp_path / "data" / "images")
    root = tmp_path / "datasets"
    (root / "coco" / "train2017").mkdir(parents=True)
    (root / "coco" / "val2017").symlink_to(tmp_path / "gone")
    names = ["train2017", "val2017", "test2017"]
    assert link_folders(tmp_path / "data", root, names) == ["val2017", "test2017"]
    assert link_folders(tmp_path / "data", root, names) == []
    assert not (root / "coco" / "train2017").is_symlink()
    assert (root / "coco" / "val2017").is_dir()


def test_a_folder_without_coco_is_told(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match=r"contains none of train2017 \(photos\)"):
        link_folders(tmp_path, tmp_path / "datasets", ["train2017"])
    with pytest.raises(InputError, match="it doesn't exist"):
        link_folders(tmp_path / "nowhere", tmp_path / "datasets", ["train2017"])


# ------------------------------------------------------------------ the command line


def tool(*arguments):
    return programs.run(ROOT / "tools" / "prepare_lvis.py", *arguments)


def test_the_tool_tells_what_is_missing_and_fails(tmp_path):
    done = tool("--check", "--root", tmp_path / "datasets", "--splits", "val")
    assert done.returncode == 2
    assert done.stderr == "error: 3 of 3 parts of LVIS-1.0 are missing or wrong, as listed above.\n"
    for expected in ("lvis/lvis_v1_val.json", "coco/train2017", "coco/val2017", "lvis_v1_val.json.zip", "val2017.zip"):
        assert expected in done.stdout
    assert not (tmp_path / "datasets").exists()


def test_the_tool_links_and_takes_files_that_are_another_version(tmp_path):
    make_images(tmp_path / "coco")
    (tmp_path / NAMES["val"]).write_text(TEXTS["val"])
    done = tool("--root", tmp_path / "datasets", "--splits", "val", "--coco", tmp_path / "coco", "--from", tmp_path)
    assert done.returncode == 2
    assert "3 images instead of 19,809" in done.stdout
    assert (tmp_path / "datasets" / "coco" / "val2017").is_symlink()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--splits", "trian"), "--splits 'trian' is unknown; valid: train, val, test_dev. Did you mean 'train'?"),
        (("--check", "--coco", "x"), "--check writes nothing"),
        (("--from", "/nowhere"), "--from /nowhere is not a folder"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(prepare_lvis, "log_to_screen", lambda: None)  # it would keep this test's stream
    monkeypatch.setattr(sys, "argv", ["prepare_lvis.py", *arguments])
    assert prepare_lvis.main() == 2
    assert message in capsys.readouterr().err
