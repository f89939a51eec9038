"""Weights behind an address: got once and whole, or an error that says where to put the file."""

import io
import os

import pytest
import torch
from detectron2.utils.file_io import PathManager

from balanced_lvis.data.lvis_v1 import download
from balanced_lvis.engine.checkpoints.checkpointer import Checkpointer
from balanced_lvis.engine.checkpoints.weights import check_weights
from balanced_lvis.utils.errors import InputError
from tests.data.lvis_v1.server import serving


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_PAUSE", 0)
    monkeypatch.setattr(download, "_CHUNK", 1 << 10)
    file = io.BytesIO()
    torch.save({"model": {"weight": torch.ones(40, 30), "bias": torch.ones(40)}}, file)
    with serving() as server:
        server.files["/models/a.pth"] = file.getvalue()
        yield server


def test_weights_are_got_once_though_the_connection_breaks(server):
    server.cuts = [2000]
    url = f"{server.url}/models/a.pth"
    check_weights(url)
    model = torch.nn.Linear(30, 40)
    Checkpointer(model).load(url)
    assert torch.equal(model.weight, torch.ones(40, 30))
    assert [asked for _, asked in server.requests] == [None, "bytes=2000-"]
    local = PathManager.get_local_path(url)
    assert local.endswith(os.path.join("models", "a.pth")) and local.startswith(os.environ["FVCORE_CACHE"])


@pytest.mark.parametrize("answer", [
    lambda asked: (200, {"Content-Length": 10**9}, b"x"),
    lambda asked: (416, {}, b""),
    lambda asked: (302, {"Location": "ftp://127.0.0.1/a.pth"}, b""),
])  # fmt: skip
def test_a_server_that_never_sends_the_file_is_an_error_with_a_remedy(server, answer):
    server.answer = answer
    with pytest.raises(InputError, match=r"MODEL.WEIGHTS .*can't be read .*copy the file to this machine"):
        check_weights(f"{server.url}/models/a.pth")
    assert len(server.requests) <= 8


@pytest.mark.parametrize("path", ["/../../outside.pth", "/models/", "/a/..", "/models/../a.pth"])
def test_no_address_leads_out_of_the_cache(server, tmp_path, path):
    with pytest.raises(InputError, match="is not the URL of a file"):
        check_weights(server.url + path)
    assert not server.requests


def test_other_addresses_than_those_of_the_web_are_refused(server):
    with pytest.raises(InputError, match="is not an http or https URL"):
        check_weights("ftp://127.0.0.1/models/a.pth")
