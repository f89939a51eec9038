"""What several test modules share. Nothing here needs a GPU, a network or a data set on disk."""

import logging
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch starts OpenMP
if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes share the cores; what they start inherits it
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

from balanced_lvis.config import load_config
from balanced_lvis.data.config_datasets import register_rendered, rendered_spec
from balanced_lvis.data.rendered import render_dataset
from balanced_lvis.utils.once import forget_reports
from tests.activations import toys
from tests.common import CONFIGS, rendered_opts

if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """A small rendered data set, registered: 12 characters, 24 / 12 / 4 images of 96 px."""
    root = tmp_path_factory.mktemp("data") / "rendered"
    cfg = load_config("", rendered_opts(root, "unused"))
    register_rendered(render_dataset(rendered_spec(cfg), root, workers=1))
    return root


@pytest.fixture(autouse=True)
def _rendered_as_it_was(request):
    """Whatever an earlier test has registered under the rendered data set's names."""
    if "rendered" in request.fixturenames:
        register_rendered(request.getfixturevalue("rendered"))


@pytest.fixture
def tiny_cfg(rendered, tmp_path):
    """The quick-start Balanced Sigmoid config on the ``rendered`` fixture."""
    return load_config(CONFIGS / "quick_start" / "balanced_sigmoid.yaml", rendered_opts(rendered, tmp_path / "out"))


@pytest.fixture(scope="module")
def toy_activations():
    """The activations of tests.activations.toys have names."""
    with toys.registered():
        yield


@pytest.fixture(autouse=True)
def _logging():
    """Logging as in a new process: an earlier test may have run a command, which keeps records from the root logger."""
    logging.getLogger("balanced_lvis").propagate = True
    forget_reports()
    yield
    disabled = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    assert not disabled, "logging.disable was called in the process of the tests"


@pytest.fixture
def package_log(caplog, monkeypatch):
    """``caplog`` with the package's records, also after a run's log files keep them from the root logger."""
    logger = logging.getLogger("balanced_lvis")
    monkeypatch.setattr(logger, "propagate", False)  # or there would be two of each
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture
def own_catalogs():
    """Datasets that a test registers are removed after it."""
    # Not above, as balanced_lvis may bring Detectron2's copy.
    from detectron2.data import DatasetCatalog, MetadataCatalog

    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that no worker of pytest-xdist is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Escapes lone surrogates in captured output: pytest-xdist sends reports as UTF-8, and would end with an error."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report
