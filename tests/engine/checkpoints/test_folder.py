"""Which checkpoint a run goes on from, whatever a kill, a disk or a user has left in its folder."""

import os
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balanced_lvis.engine.checkpoints.checkpoint_folder import newest_checkpoint, remove_partial
from balanced_lvis.utils.errors import InputError


def save(folder, name, iteration, run="a", at=None):
    path = folder / name
    torch.save({"model": {"w": torch.rand(200)}, "trainer": {"iteration": iteration, "run": run}}, path)
    age(path, iteration if at is None else at)
    return path


def age(path, at):
    os.utime(path, (1_000_000 + at, 1_000_000 + at))


def note(folder, text, at):
    (folder / "last_checkpoint").write_text(text)
    age(folder / "last_checkpoint", at)


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of iterations 1, 3 and 5, and the note of the last."""
    for iteration in (1, 3, 5):
        save(tmp_path, f"model_{iteration:07d}.pth", iteration)
    note(tmp_path, "model_0000005.pth", 5.5)
    return tmp_path


def found(folder):
    return os.path.basename(newest_checkpoint(folder))


def test_the_note_is_right_where_all_is_well(folder, caplog):
    assert found(folder) == "model_0000005.pth"
    assert not caplog.records


def test_an_empty_or_missing_folder_has_none(tmp_path):
    assert newest_checkpoint(tmp_path) == newest_checkpoint(tmp_path / "nowhere") == ""


@pytest.mark.parametrize("text", ["", "\x00\xff", "model_0000099.pth", "../other/model_final.pth", "model_0000005"])
def test_a_note_that_lies_is_not_believed(folder, text, caplog):
    note(folder, text, 6)
    assert found(folder) == "model_0000005.pth"
    assert "the newest intact checkpoint is model_0000005.pth" in caplog.text


def test_without_a_note_the_latest_is_found(folder):
    (folder / "last_checkpoint").unlink()
    assert found(folder) == "model_0000005.pth"


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_passed_over_wherever_it_ends(tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("folder")
    save(folder, "model_0000003.pth", 3)
    path = save(folder, "model_0000005.pth", 5)
    note(folder, "model_0000005.pth", 6)
    os.truncate(path, int(path.stat().st_size * share))
    assert found(folder) == "model_0000003.pth"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 799), st.integers(0, 7))
def test_one_flipped_bit_in_the_weights_is_noticed(tmp_path_factory, offset, bit):
    folder = tmp_path_factory.mktemp("folder")
    save(folder, "model_0000003.pth", 3)
    path = save(folder, "model_0000005.pth", 5)
    content = bytearray(path.read_bytes())
    weights = torch.load(path, weights_only=True)["model"]["w"].numpy().tobytes()
    content[content.index(weights) + offset] ^= 1 << bit
    path.write_bytes(content)
    assert found(folder) == "model_0000003.pth"


def test_a_kill_between_a_checkpoint_and_its_note_loses_nothing(folder):
    save(folder, "model_0000007.pth", 7)
    assert found(folder) == "model_0000007.pth"


def test_an_older_one_that_a_user_has_noted_is_gone_on_from(folder):
    note(folder, "model_0000001.pth", 9)
    assert found(folder) == "model_0000001.pth"


def test_a_longer_run_that_was_in_the_folder_before_is_not_gone_on_from(folder):
    save(folder, "model_0000099.pth", 99, run="earlier", at=-5)
    assert found(folder) == "model_0000005.pth"
    (folder / "last_checkpoint").unlink()
    assert found(folder) == "model_0000005.pth"


def test_weights_without_a_training_are_no_checkpoint_to_go_on_from(folder):
    torch.save({"model": {}}, folder / "model_pretrained.pth")
    (folder / "last_checkpoint").unlink()
    assert found(folder) == "model_0000005.pth"


def test_checkpoints_of_stock_detectron2_are_found(tmp_path):
    for iteration in (4, 9):
        torch.save({"model": {}, "trainer": {"iteration": iteration}}, tmp_path / f"model_{iteration:07d}.pth")
    note(tmp_path, "nothing", 0)
    assert found(tmp_path) == "model_0000009.pth"


def test_where_none_is_whole_the_error_names_them_all(folder):
    for path in folder.glob("*.pth"):
        os.truncate(path, 100)
    with pytest.raises(InputError, match=r"0000001\.pth: is damaged.*0000005\.pth.*delete these files"):
        newest_checkpoint(folder)


def test_a_note_without_any_checkpoint_is_an_error(tmp_path):
    note(tmp_path, "model_final.pth", 0)
    with pytest.raises(InputError, match=r"names 'model_final\.pth'"):
        newest_checkpoint(tmp_path)


def test_a_folder_in_a_checkpoints_place_is_none(folder):
    (folder / "model_0000009.pth").mkdir()
    assert found(folder) == "model_0000005.pth"


def test_what_a_killed_writer_leaves_is_cleared_away_and_nothing_else(folder):
    shutil.copy(folder / "model_0000005.pth", folder / "model_0000007.pth.partial")
    (folder / "last_checkpoint.partial").write_text("model_")
    before = sorted(path.name for path in folder.iterdir())
    assert found(folder) == "model_0000005.pth"
    remove_partial(folder)
    assert sorted(path.name for path in folder.iterdir()) == [name for name in before if "partial" not in name]
