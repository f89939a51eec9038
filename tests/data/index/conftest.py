"""What the tests of the index share."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from balanced_lvis.data.index import opening


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv(opening.MODE, raising=False)


@pytest.fixture
def builds(monkeypatch):
    """The files whose index this process has built."""
    made = []
    build = opening.build_index
    monkeypatch.setattr(opening, "build_index", lambda *args: (made.append(args[0]), build(*args)))
    return made


@pytest.fixture
def register():
    """Registers datasets for one test."""
    names = []

    def add(function, name, *args):
        names.append(name)
        function(name, *args)
        return name

    yield add
    for name in names:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name, None)
