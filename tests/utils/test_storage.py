"""Whatever can't be written ends a command line with one message and status 4, or is refused before work starts."""

import errno
import io
import json
import os
import shutil

import pytest
import torch

from balanced_lvis.commands.train import main
from balanced_lvis.console.command_line import command_line, log_to_files
from balanced_lvis.data.index.opening import places_of
from balanced_lvis.engine.trainer import Trainer
from balanced_lvis.utils.errors import InputError, StorageError
from balanced_lvis.utils.job_lock import only_job_in
from balanced_lvis.utils.storage import (
    check_present,
    check_writable,
    clear_errors,
    clear_system_errors,
    is_storage_error,
)
from soak.failing_writes import FailingWrites
from tests.common import rendered_opts
from tests.engine.test_run import CONFIG

ODD = "a b#c*[d]é%20;'x\"~&=$H日"


def arguments(root, output, *flags, **options):
    pairs = [word for key, value in options.items() for word in (key.replace("__", "."), str(value))]
    return ["--config-file", str(CONFIG), *flags, *rendered_opts(root, output), *pairs]


def only_message(capsys):
    """The one line that a failing command has shown."""
    text = capsys.readouterr().err
    assert "Traceback" not in text and text.count("error: ") == 1, text
    return next(line for line in text.splitlines() if line.startswith("error: "))


@pytest.fixture(scope="module")
def odd(rendered, tmp_path_factory):
    """A short training in a folder with letters that shells, globs and URLs give a meaning to."""
    folder = tmp_path_factory.mktemp("odd") / ODD
    assert main(arguments(rendered, folder, SOLVER__MAX_ITER=2, DATASETS__TEST="()")) == 0
    return folder


def test_a_folder_with_letters_that_mean_something_elsewhere_is_trained_in_resumed_and_evaluated(odd, rendered):
    assert main(arguments(rendered, odd, "--resume", SOLVER__MAX_ITER=3, DATASETS__TEST="()")) == 0
    assert json.loads((odd / "metrics.json").read_text().splitlines()[-1])["iteration"] == 2
    weights = odd / "model_final.pth"
    assert main(arguments(rendered, odd / "eval", "--eval-only", MODEL__WEIGHTS=weights)) == 0
    assert (odd / "eval" / "evaluation" / "results.json").is_file()


@pytest.mark.parametrize("name", ["a?b", "a\nb", "a\tb", "\x1b[31m", "a\x7f", " a", "a ", "s3://a", "", "\udc80"])
def test_a_name_that_could_not_be_resumed_is_refused_at_the_start(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--config-file", str(CONFIG), "OUTPUT_DIR", repr(name)]) == InputError.exit_status
    message = only_message(capsys)
    assert "OUTPUT_DIR" in message and message.isprintable()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "is_folder"),
    [("metrics.json", True), ("results.json", True), ("log.txt", True), ("inference", False), ("ema", False)],
)
def test_a_folder_in_a_files_place_and_the_reverse_are_found_before_work_starts(name, is_folder, tmp_path):
    (tmp_path / name).mkdir() if is_folder else (tmp_path / name).write_text("")
    with pytest.raises(StorageError, match=f"a {'folder' if is_folder else 'file'} has this name .*{name}"):
        check_writable(tmp_path)


@pytest.mark.parametrize("number", [1, 8, 20, 40, 60, 80])
def test_evaluation_on_a_full_disk_is_one_message_and_status_4(odd, rendered, tmp_path, capsys, number):
    writes = FailingWrites(str(tmp_path), number, spared=("log.txt",))
    with writes.armed():
        status = main(arguments(rendered, tmp_path / "out", "--eval-only", MODEL__WEIGHTS=odd / "model_final.pth"))
    assert status == (StorageError.exit_status if writes.has_failed else 0)
    if writes.has_failed:
        assert "No space" in (message := only_message(capsys)) or "the disk is full" in message


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("number", [1, 2, 9, 40])
def test_rendering_where_nothing_can_be_written_is_one_message_and_status_4(rendered, tmp_path, capsys, code, number):
    with FailingWrites(str(tmp_path), number, code).armed():
        assert main(arguments(tmp_path / "data", tmp_path / "out")) == StorageError.exit_status
    assert str(tmp_path) in only_message(capsys)


def test_a_folder_that_is_deleted_in_mid_run_is_an_error_and_is_not_made_again(rendered, tmp_path, capsys, monkeypatch):
    out, step = tmp_path / "out", Trainer.run_step

    def delete(trainer):
        step(trainer)
        if trainer.iter == 1:
            shutil.rmtree(out)

    monkeypatch.setattr(Trainer, "run_step", delete)
    assert main(arguments(rendered, out, SOLVER__CHECKPOINT_PERIOD=2)) == StorageError.exit_status
    assert "it does not exist" in only_message(capsys) and not out.exists()
    with pytest.raises(StorageError, match="it does not exist"):
        check_present(out)


def test_an_error_of_another_file_is_told_of_that_file_and_one_of_reading_is_not_hidden(tmp_path):
    output, other = tmp_path / "out", str(tmp_path / "other" / "a.jpg")
    with pytest.raises(StorageError, match="'.*a.jpg' can't be written: the disk is full"), clear_errors(output):
        raise OSError(errno.ENOSPC, "full", other)
    for clear in (clear_errors(output), clear_system_errors()):
        with pytest.raises(FileNotFoundError), clear:
            raise FileNotFoundError(errno.ENOENT, "gone", other)
    with pytest.raises(StorageError, match="permission denied"), clear_system_errors():
        raise PermissionError(errno.EACCES, "not allowed", other)


@pytest.mark.parametrize("argument", ["OUTPUT_DIR", "--output"])
def test_the_message_names_the_argument_of_the_folder_and_its_remedy(argument, tmp_path):
    (folder := tmp_path / "file").write_text("")
    for use in (
        lambda: check_writable(folder, argument),
        lambda: only_job_in(folder, argument).__enter__(),
        lambda: log_to_files(str(folder), 0, argument),
    ):
        with pytest.raises(StorageError, match=f"^{argument} '.*fix this, or choose another {argument}") as caught:
            use()
        assert ("continues with --resume" in str(caught.value)) == (argument == "OUTPUT_DIR")


def test_a_tools_own_output_that_can_not_be_written_is_one_message(tmp_path, capsys):
    assert command_line(lambda: tmp_path.write_text(""))() == StorageError.exit_status
    assert "a folder has this name" in only_message(capsys)


def test_without_a_home_there_is_no_cache_and_training_goes_on(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/a")
    assert len(places_of("/data/a.json", ".index")) == 2
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert places_of("/data/a.json", ".index") == ["/data/a.json.index"]


def test_what_torchs_writer_makes_of_a_failed_write_is_an_error_of_storage_too():
    """It raises an error of its own about its position in the file, while it handles the system's."""

    class Full(io.BytesIO):
        def write(self, data):
            if self.tell() > 1000:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
            return super().write(data)

    with pytest.raises(RuntimeError) as caught:
        torch.save({"weights": torch.ones(1000)}, Full())
    assert is_storage_error(caught.value)
    for other in (RuntimeError("size mismatch"), ValueError("bad"), OSError(errno.ENOENT, "nothing there"), None):
        assert not is_storage_error(other)
