"""Configs that import modules from outside the package."""

import sys
import tracemalloc

import pytest

from balanced_lvis import activations
from balanced_lvis.activations import base
from balanced_lvis.config import default_config, import_overrides, load_config
from balanced_lvis.config_files.imports import module_names
from balanced_lvis.data.samplers import build_sampler, sampler_registry, times_shown
from balanced_lvis.data.training_prior import class_prior_from_config
from balanced_lvis.utils.errors import InputError
from tests.common import rendered_opts

ACTIVATION = """
from balanced_lvis.activations import Sigmoid, register_activation

@register_activation("{name}")
class Toy(Sigmoid):
    def __init__(self, num_classes, prior=None, *, temperature: float = 2.0, groups: str = "rc"):
        super().__init__(num_classes, prior)
        self.temperature = temperature
"""
SAMPLER = """
import numpy as np
from balanced_lvis.data.samplers import ResumableSampler, register_sampler

class EveryNth(ResumableSampler):
    def __init__(self, length, step):
        super().__init__(seed=0)
        self.length, self.step = length, step

    def stream(self):
        while True:
            yield from range(0, self.length, self.step)

def shown(cfg, dataset_dicts, *, step=1):
    return np.arange(len(dataset_dicts)) % step == 0

@register_sampler("every_nth", shown=shown)
def build(cfg, dataset_dicts, *, step=1):
    return EveryNth(len(dataset_dicts), step)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder; what is imported from it and registered is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(base._ACTIVATIONS, "_classes", dict(base._ACTIVATIONS._classes))
    monkeypatch.setattr(sampler_registry._SAMPLERS, "_classes", dict(sampler_registry._SAMPLERS._classes))
    monkeypatch.setattr(sampler_registry, "_SHOWN", dict(sampler_registry._SHOWN))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder, **files):
    for name, text in files.items():
        stem, _, ending = name.rpartition("_")
        (folder / f"{stem}.{ending}").write_text(text)


def test_options_of_an_imported_activation_are_config_keys(folder):
    write(folder, toy_py=ACTIVATION.format(name="toy"))
    node = "MODEL: {ROI_BOX_HEAD: {ACTIVATION: {NAME: toy, TOY: {TEMPERATURE: 3.5}}}}\n"
    write(folder, x_yaml=f'IMPORTS: ("toy",)\n{node}')
    cfg = load_config(folder / "x.yaml")
    toy = cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.TOY
    assert (toy.TEMPERATURE, toy.GROUPS, tuple(cfg.IMPORTS)) == (3.5, "rc", ("toy",))
    # A saved config brings its imports along.
    (folder / "config.yaml").write_text(cfg.dump())
    saved = load_config(folder / "config.yaml")
    assert (saved.IMPORTS, saved.MODEL.ROI_BOX_HEAD.ACTIVATION) == (("toy",), cfg.MODEL.ROI_BOX_HEAD.ACTIVATION)


@pytest.mark.parametrize("value", ["toy", '("toy",)', "['toy']", "\n- toy"])
def test_imports_are_one_name_or_a_list_of_names(folder, value):
    write(folder, toy_py=ACTIVATION.format(name="toy"), x_yaml=f"IMPORTS: {value}\n")
    assert load_config(folder / "x.yaml").IMPORTS == ("toy",)


def test_imports_of_bases_and_of_the_command_line_are_added(folder):
    for name in ("first", "second", "third"):
        write(folder, **{f"{name}_py": ACTIVATION.format(name=name)})
    write(folder, base_yaml="IMPORTS: (first,)\n".replace("(first,)", '("first",)'))
    write(folder, x_yaml="_BASE_: base.yaml\nIMPORTS: [second]\n")
    key = "MODEL.ROI_BOX_HEAD.ACTIVATION.THIRD.TEMPERATURE"
    cfg = load_config("x.yaml", [*import_overrides(["third"]), key, "1.5"])
    assert cfg.IMPORTS == ("first", "second", "third")
    assert {"FIRST", "SECOND", "THIRD"} <= set(cfg.MODEL.ROI_BOX_HEAD.ACTIVATION)
    assert cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.THIRD.TEMPERATURE == 1.5


def test_options_of_an_imported_sampler_reach_it(folder):
    write(folder, every_py=SAMPLER, x_yaml="IMPORTS: every\nDATALOADER: {SAMPLER_TRAIN: every_nth}\n")
    cfg = load_config("x.yaml", ["DATALOADER.SAMPLER.EVERY_NTH.STEP", "3"])
    images = [{"annotations": []}] * 7
    stream = iter(build_sampler(cfg, images))
    assert [next(stream) for _ in range(4)] == [0, 3, 6, 0]
    assert times_shown(cfg, images).tolist() == [1, 0, 0, 1, 0, 0, 1]


def test_a_saved_prior_is_of_a_sampler_with_its_options(folder, rendered):
    write(folder, every_py=SAMPLER)
    opts = [*rendered_opts(rendered, folder), "IMPORTS", "every", "DATALOADER.SAMPLER_TRAIN", "every_nth"]
    opts += ["MODEL.CLASS_PRIOR.SAMPLED", "True", "DATASETS.TRAIN", "('rendered_train',)"]
    step = "DATALOADER.SAMPLER.EVERY_NTH.STEP"
    prior = class_prior_from_config(load_config("", [*opts, step, "2"]))
    assert (prior.sampled_counts.sampler, prior.sampled_counts.num_images) == ("every_nth, step 2", 12)
    prior.save(folder / "prior.json")
    opts += ["MODEL.CLASS_PRIOR.FILE", "prior.json"]
    class_prior_from_config(load_config("", [*opts, step, "2"]))
    with pytest.raises(InputError, match="'every_nth, step 3', but .*prior.json has the counts of 'every_nth, step 2'"):
        class_prior_from_config(load_config("", [*opts, step, "3"]))


def test_a_module_in_the_current_folder_does_not_hide_an_installed_one(folder):
    write(folder, yaml_py="raise SystemExit('hidden')\n", torch_py="raise SystemExit('hidden')\n")
    write(folder, x_yaml="IMPORTS: [yaml, torch]\n")
    assert load_config("x.yaml").IMPORTS == ("yaml", "torch")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nowhere_to_be_found", "x.yaml: IMPORTS: module 'nowhere_to_be_found' was not found.*PYTHONPATH"),
        ("broken", r"module 'broken' failed on import \(.*broken.py, line 2\): ValueError: no.*Fix the module"),
        ("unclosed", r"module 'unclosed' failed on import \(.*unclosed.py, line 1\): SyntaxError"),
        ("needs_more", r"module 'needs_more' failed on import .*No module named 'nowhere_to_be_found'"),
        (
            "twice",
            r"module 'twice' failed on import \(.*twice.py, line \d+\): Activation 'sigmoid' is registered already, by "
            r"balanced_lvis\.activations\.sigmoid\.Sigmoid; choose another name\. Fix the module\.$",
        ),
        ("toy.nowhere", "module 'toy.nowhere' was not found.*'toy' is not a package"),
        ("../x.py", r"IMPORTS is '../x.py'; it must list names of Python modules"),
        (".relative", r"IMPORTS is '.relative'; it must"),
        ("3", r"IMPORTS is '3'; it must"),
        ("{a: 1}", "it must list names of Python modules"),
        ("[[toy]]", "it must list names of Python modules"),
        ("'(toy'", "it must list names of Python modules"),
    ],
)
def test_what_can_not_be_imported_is_explained(folder, value, message):
    write(
        folder,
        toy_py=ACTIVATION.format(name="toy"),
        broken_py="\nraise ValueError('no\\nluck')\n",
        unclosed_py="x = (\n",
        twice_py=ACTIVATION.format(name="sigmoid"),
        x_yaml=f"IMPORTS: {value}\n",
    )
    (folder / "needs_more.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(InputError, match=f"(?s){message}") as error:
        load_config("x.yaml")
    assert "\n" not in str(error.value)


def test_an_unknown_option_of_a_method_points_to_imports(folder):
    with pytest.raises(InputError, match="unknown config key .*ACTIVATION.TOY.*IMPORTS, or --import"):
        load_config("", ["MODEL.ROI_BOX_HEAD.ACTIVATION.TOY.TEMPERATURE", "1"])


@pytest.mark.parametrize(
    ("parameter", "message"),
    [("temperature", "'temperature' of activation 'odd' has no default"), ("groups={}", "the default {}, a dict")],
)
def test_options_need_defaults_that_a_config_can_have(folder, monkeypatch, parameter, message):
    write(folder, odd_py=ACTIVATION.format(name="odd").replace("temperature: float = 2.0", parameter, 1))
    if "groups" in parameter:
        text = (folder / "odd.py").read_text().replace(', groups: str = "rc"', "").replace("temperature\n", "groups\n")
        (folder / "odd.py").write_text(text)
    with pytest.raises(InputError, match=message):
        load_config("", ["IMPORTS", "odd"])


def test_every_option_of_ours_is_a_config_key():
    node = default_config().MODEL.ROI_BOX_HEAD.ACTIVATION
    assert set(node) == {"NAME", *(name.upper() for name in activations.activation_names())}
    assert node.BALANCED_SIGMOID == {"FORM": "centred", "COUNT": "image", "PRIOR_PROBABILITY": 0.001}


def test_a_long_value_is_not_written_out():
    tracemalloc.start()
    with pytest.raises(InputError, match="IMPORTS is ") as error:
        module_names(["no module " * 10_000] * 5_000, "a.yaml")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(str(error.value)) < 400 and peak < 10_000_000
