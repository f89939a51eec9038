"""Standard output and error that can't be written to end no run; where they are the result, they end a tool quietly."""

import errno
import io
import os
import subprocess
import sys
from contextlib import redirect_stdout

import pytest

from balanced_lvis import _detectron2
from balanced_lvis.console.command_line import command_line
from balanced_lvis.console.streams import LenientStream
from balanced_lvis.utils.errors import StorageError
from tests.common import ROOT
from tests.engine.test_run import command_of

TOOL = """
import logging, os, sys
from balanced_lvis import _detectron2
from balanced_lvis.console.command_line import command_line, log_to_files, log_to_screen
from balanced_lvis.utils.errors import InputError
from balanced_lvis import _detectron2
from tqdm import tqdm

_detectron2.require()

@command_line(prints_result={prints_result})
def main():
    log_to_files({folder!r}, 0) if {folder!r} else log_to_screen()
    for i in tqdm(range(3), mininterval=0):
        logging.getLogger("balanced_lvis").info("line %d", i)
        print("x" * 9000)
        print("to standard error", file=sys.stderr, flush=True)
        os.system("echo from a child >&2")
    with open({done!r}, "w") as file:  # its number must not be that of standard error
        try:
            os.write(2, b"as a library in C writes")
        except OSError:
            pass
        file.write("done")
    if {fails}:
        raise InputError("as the tool says")

sys.exit(main())
"""
# What a shell does with the tool's streams, and whether a pipe's reader is gone.
BROKEN = {
    "full": "{tool} > /dev/full 2>&1",
    "closed": "{tool} >&- 2>&-",
    "standard input is closed too": "{tool} <&- >&- 2>&-",
    "standard error full": "{tool} 2> /dev/full > /dev/null",
    "a reader that leaves": "set -o pipefail; {tool} 2>&1 | head -c 10 > /dev/null",
    "a reader that is gone": "set -o pipefail; {tool} 2>&1 | true",
}
# The tool needs only the loggers of Detectron2.
QUICK = {_detectron2.SKIP: "1"}
needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")


def run_in_shell(line, command, **environment):
    """In a shell and a new Python."""
    words = " ".join(f"'{word}'" for word in command)
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(["bash", "-c", line.format(tool=words)], capture_output=True, text=True, env=env, cwd=ROOT)


def tool(tmp_path, prints_result=False, fails=False, folder=""):
    script = tmp_path / "tool.py"
    content = TOOL.format(prints_result=prints_result, fails=fails, folder=str(folder), done=str(tmp_path / "done"))
    script.write_text(content)
    return [sys.executable, script]


@needs_full
@pytest.mark.parametrize(("how", "fails"), [(how, "closed" in how) for how in BROKEN])
def test_a_tool_whose_streams_are_broken_does_its_work_and_ends_with_its_status(how, fails, tmp_path):
    done = run_in_shell(BROKEN[how], tool(tmp_path, fails=fails, folder=tmp_path / "out"), **QUICK)
    assert done.returncode == (2 if fails else 0), done
    assert (tmp_path / "done").read_text() == "done"
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert (tmp_path / "out" / "log.txt").read_text().count("line ") == 3


@needs_full
@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("{tool} > /dev/full", StorageError.exit_status, "error: standard output can't be written: No space left"),
        ("{tool} >&-", StorageError.exit_status, "error: standard output can't be written: Bad file descriptor"),
        ("set -o pipefail; {tool} | true", 141, ""),
    ],
)
def test_where_the_output_is_the_result_its_loss_is_an_error_and_a_pipe_without_a_reader_is_silent(
    line, status, message, tmp_path
):
    done = run_in_shell(line, analysis(tmp_path))
    assert done.returncode == status, done
    told = [text for text in done.stderr.splitlines() if "error" in text or "Traceback" in text or "Exception" in text]
    assert len(told) == bool(message) and done.stderr.count(message) >= 1


def analysis(tmp_path) -> list:
    """A command whose result is its output, which is not ASCII."""
    annotations = tmp_path / "a.json"
    annotations.write_text(
        '{"images": [{"id": 1, "width": 9, "height": 9, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "é"}],'
        '"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}]}'
    )
    return [sys.executable, ROOT / "tools" / "analyze_dataset.py", annotations]


def test_characters_that_the_output_cannot_show_are_escaped(tmp_path):
    plain = run_in_shell("{tool}", analysis(tmp_path), PYTHONIOENCODING="ascii")
    assert plain.returncode == 0 and r"\xe9" in plain.stdout


@needs_full
def test_a_log_file_on_a_full_disk_costs_its_lines_and_one_warning(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "log.txt").symlink_to("/dev/full")
    done = run_in_shell("{tool}", tool(tmp_path, folder=out), **QUICK)
    assert done.returncode == 0
    assert done.stderr.count("warning: the log can't be written (No space left on device)") == 1
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert done.stdout.count("line ") == 3


@needs_full
@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_whose_streams_are_broken_ends_as_any_other(processes, rendered, tmp_path):
    out = tmp_path / "out"
    command = command_of(rendered, out, "--num-gpus", processes, SOLVER__MAX_ITER=2, SOLVER__IMS_PER_BATCH=2)
    done = run_in_shell(BROKEN["full" if processes == 1 else "closed"], command)
    assert done.returncode == 0, done
    assert (out / "results.json").is_file()
    assert "Traceback" not in (out / "log.txt").read_text()


class BadFile(io.StringIO):
    """Fails as often as it is told to."""

    def __init__(self, number, times):
        super().__init__()
        self.number, self.times = number, times

    def write(self, text):
        if self.times:
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number))
        return super().write(text)


def test_a_disk_that_is_emptied_is_written_to_again():
    stream = LenientStream(BadFile(errno.ENOSPC, 2))
    for text in "abcd":
        assert stream.write(text) == 1
    assert stream.getvalue() == "cd" and stream.error.errno == errno.ENOSPC


def test_a_stream_that_was_closed_is_no_error_but_a_bug_is():
    stream = LenientStream(io.StringIO())
    stream.close()
    stream.write("a")
    stream.flush()
    assert stream.error.errno == errno.EBADF
    with pytest.raises(TypeError):
        LenientStream(io.StringIO()).write(b"a")


def test_the_streams_are_as_before_when_a_tool_has_ended():
    own = io.StringIO()
    with redirect_stdout(own):
        assert command_line(lambda: print("result"))() == 0
        assert sys.stdout is own
    assert own.getvalue() == "result\n"
