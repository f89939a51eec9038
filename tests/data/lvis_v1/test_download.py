"""Downloads are complete or fail, whatever the network does."""

import hashlib
import multiprocessing
import random
import shutil
import time
from collections import namedtuple

import pytest

from balanced_lvis.data.lvis_v1 import download as module
from balanced_lvis.data.lvis_v1.download import download, file_md5
from balanced_lvis.utils.errors import InputError
from tests.data.lvis_v1.server import serving

DATA = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(DATA).hexdigest()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "_PAUSE", 0)
    monkeypatch.setattr(module, "_CHUNK", 1 << 14)


@pytest.fixture
def server():
    with serving() as server:
        server.files["/file"] = DATA
        yield server


def get(server, folder, md5=MD5, name="file"):
    path = folder / "deep" / "file"
    download(f"{server.url}/{name}", path, md5)
    return path


def partial(folder, data, tag='"1"'):
    (folder / "deep").mkdir()
    (folder / "deep" / "file.download").write_bytes(data)
    if tag:
        (folder / "deep" / "file.download.tag").write_text(tag)


def assert_whole(path):
    assert path.read_bytes() == DATA
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_file_arrives(server, tmp_path):
    path = get(server, tmp_path)
    assert_whole(path)
    assert server.requests == [("/file", None)]
    assert file_md5(path) == MD5


def test_without_a_published_checksum_it_is_taken_as_it_is(server, tmp_path):
    assert_whole(get(server, tmp_path, md5=""))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_goes_on(server, tmp_path, ranges):
    server.ranges = ranges
    server.cuts = [100_000, 150_000]
    assert_whole(get(server, tmp_path))
    assert server.requests[0] == ("/file", None)
    starts = [0 if asked is None else int(asked[6:-1]) for _, asked in server.requests]
    assert starts == ([0, 100_000, 250_000] if ranges else [0, 100_000, 150_000])


def test_a_later_call_goes_on_where_an_interrupted_one_stopped(server, tmp_path):
    partial(tmp_path, DATA[:123_456])
    assert_whole(get(server, tmp_path))
    assert server.requests == [("/file", "bytes=123456-")]


def test_a_killed_download_goes_on_where_it_was_killed(server, tmp_path):
    server.stalls_after = 100_000
    process = multiprocessing.get_context("fork").Process(target=get, args=(server, tmp_path))
    process.start()
    arrived = tmp_path / "deep" / "file.download"
    deadline = time.monotonic() + 60
    while not (arrived.exists() and arrived.stat().st_size > 80_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    size = arrived.stat().st_size
    assert 80_000 < size <= 100_000
    server.stalls_after = None
    server.released.set()
    assert_whole(get(server, tmp_path))
    assert server.requests[-1] == ("/file", f"bytes={size}-")


def test_what_is_complete_is_not_got_again(server, tmp_path):
    partial(tmp_path, DATA)
    assert_whole(get(server, tmp_path))


@pytest.mark.parametrize("tag", ['"1"', ""])
def test_a_part_of_another_file_is_given_up(server, tmp_path, tag):
    partial(tmp_path, b"x" * 1000, tag)
    server.tag = '"2"'
    assert_whole(get(server, tmp_path))


def test_a_part_that_is_longer_than_the_file_is_given_up(server, tmp_path):
    partial(tmp_path, DATA + b"x", "")
    assert_whole(get(server, tmp_path))


def test_a_part_from_elsewhere_is_not_appended(server, tmp_path):
    partial(tmp_path, DATA[:1000])
    server.shift = 5
    assert_whole(get(server, tmp_path))


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(InputError, match=f"/file has the MD5 {MD5}, but {'0' * 32} is published"):
        get(server, tmp_path, "0" * 32)
    assert not (tmp_path / "deep" / "file").exists()
    assert not (tmp_path / "deep" / "file.download").exists()
    assert len(server.requests) == 1


def test_a_missing_file_is_told_at_once(server, tmp_path):
    with pytest.raises(InputError, match="/nothing can't be downloaded: 404 Not Found"):
        get(server, tmp_path, name="nothing")
    assert len(server.requests) == 1


def test_a_server_in_trouble_is_asked_again(server, tmp_path):
    server.errors = [503, 500]
    assert_whole(get(server, tmp_path))
    assert len(server.requests) == 3


def test_an_end_that_does_not_come_is_told_and_what_arrived_is_kept(server, tmp_path):
    server.cuts = [1000, *[0] * 20]
    with pytest.raises(InputError, match="the connection ended at 1,000 of 300,000 bytes. The received part is kept"):
        get(server, tmp_path)
    server.cuts = []
    assert_whole(get(server, tmp_path))
    assert server.requests[-1] == ("/file", "bytes=1000-")


def start_of(asked):
    return int(asked[6:-1]) if asked else 0


def sent(start, length, size="*"):
    return {"Content-Range": f"bytes {start}-{start + length - 1}/{size}", "Content-Length": length}


ALWAYS = {
    "one byte a time": lambda asked: (206, sent(start_of(asked), 1, 300_000), b"x") if asked
    else (200, {"Content-Length": 300_000}, b"x" * 20_000),
    "nothing": lambda asked: (200, {"Content-Length": 0}, b""),
    "nothing, of no length": lambda asked: (200, {}, b""),
    "no content": lambda asked: (204, {}, b""),
    "short": lambda asked: (200, {"Content-Length": 300_000}, b"x" * (20_000 if asked else 40_000)),
    "416": lambda asked: (416, {}, b"") if asked else (200, {"Content-Length": 99_999}, b"x" * 50_000),
    "416 of nonsense": lambda asked: (416, {"Content-Range": "bytes */" + "9" * 5000}, b"") if asked
    else (200, {"Content-Length": 99_999}, b"x" * 50_000),
    "another range": lambda asked: (206, sent(5, 40_000), b"x" * 40_000) if asked
    else (200, {"Content-Length": 99_999}, b"x" * 50_000),
    "a range of nonsense": lambda asked: (206, {"Content-Range": "bytes what-ever/1e9"}, b"x"),
    "a range that was not asked for": lambda asked: (206, sent(7, 100), b"x" * 100),
    "length of nonsense": lambda asked: (200, {"Content-Length": "many"}, b"x" * 100),
    "negative length": lambda asked: (200, {"Content-Length": "-5"}, b"x" * 100),
    "length of a million digits": lambda asked: (200, {"Content-Length": "9" * 50_000}, b"x" * 100),
    "chunks of nonsense": lambda asked: (200, {"Transfer-Encoding": "chunked"}, b"zzz\r\n"),
    "too many headers": lambda asked: (200, {f"X-{n}": "x" for n in range(500)}, b""),
    "a loop": lambda asked: (302, {"Location": "/file"}, b""),
    "a port of nonsense": lambda asked: (302, {"Location": "http://127.0.0.1:99999999/file"}, b""),
    "a host of nonsense": lambda asked: (302, {"Location": "http://a..b/" + "x" * 10}, b""),
}  # fmt: skip


@pytest.mark.parametrize("name", ALWAYS)
def test_a_server_that_never_answers_well_is_given_up_after_a_few_tries(server, tmp_path, name):
    server.answer = ALWAYS[name]
    with pytest.raises(InputError, match="/file can't be downloaded"):
        get(server, tmp_path, "")
    assert len(server.requests) <= 12
    assert not (tmp_path / "deep" / "file").exists()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/file", "file:///etc/passwd", "data:text/plain,x", "FTP://127.0.0.1/"])
def test_only_addresses_of_the_web_are_redirected_to(server, tmp_path, url):
    server.answer = lambda asked: (302, {"Location": url}, b"")
    with pytest.raises(InputError, match="/file (redirects to|can't be downloaded)"):
        get(server, tmp_path, "")
    assert len(server.requests) == 1


def test_a_redirect_on_the_web_is_followed(server, tmp_path):
    def answer(asked):
        is_first = server.requests[-1][0] == "/file"
        return (302, {"Location": "/other"}, b"") if is_first else (200, {"Content-Length": len(DATA)}, DATA)

    server.answer = answer
    assert_whole(get(server, tmp_path))


def test_a_stream_without_end_stops_before_the_disk_is_full(server, tmp_path, monkeypatch):
    frees = iter([*[1 << 30] * 5, *[1 << 20] * 1000])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("usage", "free")(next(frees)))
    server.answer = lambda asked: (200, {}, DATA)
    with pytest.raises(InputError, match="free disk space"):
        get(server, tmp_path, "")
    assert len(server.requests) == 1


def test_without_a_network_it_says_so(tmp_path):
    with serving() as server:
        url = server.url
    with pytest.raises(InputError, match="can't be downloaded: .*refused"):
        download(f"{url}/file", tmp_path / "file")
    with pytest.raises(InputError, match="is not an http or https URL"):
        download("file:///etc/passwd", tmp_path / "file")


def test_a_disk_without_room_is_told_before_anything_is_written(server, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")(1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match=r"/file takes 0.00 GB, but .*deep has 0.00 GB free"):
        get(server, tmp_path)
    assert not list((tmp_path / "deep").iterdir())


def test_a_folder_that_cant_be_written_to_is_told(server, tmp_path):
    (tmp_path / "deep").touch()
    with pytest.raises(InputError, match="deep/file can't be written"):
        get(server, tmp_path)
