"""Checkpoint files of anybody are read without running what is in them, whatever they hold."""

import collections
import io
import os
import pickle
import shutil
import struct
import zipfile

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from balanced_lvis.config import load_config
from balanced_lvis.engine.checkpoints.checkpoint_file import read_checkpoint
from balanced_lvis.engine.checkpoints.checkpointer import Checkpointer
from balanced_lvis.engine.checkpoints.conversion import convert_checkpoint
from balanced_lvis.engine.checkpoints.identity import Identity
from balanced_lvis.engine.checkpoints.weights import check_weights, load_first_stage, load_for_evaluation
from balanced_lvis.engine.diagnostics import replay
from balanced_lvis.engine.trainer import Trainer
from balanced_lvis.utils.errors import InputError

WEIGHTS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.array([1.0, -2.0], np.float64)}


class _Attack:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


class _Settings:
    """Harmless, but of a class that only this program has."""

    def __init__(self):
        self.depth = 50


def tensors(content=WEIGHTS):
    return {name: torch.from_numpy(value) for name, value in content.items()}


def assert_weights(state):
    assert list(state) == list(WEIGHTS)
    for name, value in WEIGHTS.items():
        assert state[name].dtype == torch.from_numpy(value).dtype
        np.testing.assert_array_equal(state[name].numpy(), value)


def saved(path, content, old_format=False):
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    return path


def pickled(path, content, protocol=pickle.DEFAULT_PROTOCOL):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_torch_files_of_both_formats_are_read_bare_or_under_model(tmp_path, old_format, wrapped):
    content = {"model": tensors(), "iteration": 7} if wrapped else tensors()
    read = read_checkpoint(saved(tmp_path / "x.pth", content, old_format))
    assert_weights(read["model"])
    assert read.get("iteration") == (7 if wrapped else None)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_model_zoo_pickles_are_read_in_every_protocol(tmp_path, protocol, kind):
    content = {"model": kind(WEIGHTS), "__author__": "Detectron2 Model Zoo"}
    read = read_checkpoint(pickled(tmp_path / "x.pkl", content, protocol))
    assert_weights(read["model"])
    assert read["__author__"] == "Detectron2 Model Zoo"
    assert all(value.is_contiguous() and value.numpy().flags.writeable for value in read["model"].values())


def test_arrays_of_every_layout_come_out_as_they_went_in(tmp_path):
    arrays = {
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "big_endian": np.arange(5, dtype=">f4"),
        "scalar": np.array(3, np.int64),
        "empty": np.zeros((0, 4), np.float32),
        "half": np.linspace(0, 1, 7, dtype=np.float16),
    }
    for protocol in (2, pickle.HIGHEST_PROTOCOL):
        read = read_checkpoint(pickled(tmp_path / "x.pkl", {"model": dict(arrays)}, protocol))["model"]
        for name, value in arrays.items():
            np.testing.assert_array_equal(read[name].numpy(), value)
            assert read[name].shape == value.shape


def test_detectrons_and_pycls_layouts_ask_for_matching_by_shape(tmp_path):
    blobs = {"blobs": {"conv1_w": WEIGHTS["a.weight"], "conv1_w_momentum": WEIGHTS["a.weight"]}}
    caffe2 = read_checkpoint(pickled(tmp_path / "x.pkl", blobs, 2))
    assert list(caffe2["model"]) == ["conv1_w"] and caffe2["matching_heuristics"]
    state = {"model_state": {**tensors(), "bn.num_batches_tracked": torch.tensor(3)}}
    pycls = read_checkpoint(saved(tmp_path / "x.pyth", state))
    assert_weights(pycls["model"])
    assert pycls["__author__"] == "pycls" and pycls["matching_heuristics"]


def check_runs_only_if_trusted(path, harm):
    """Whether the attack in a checkpoint has run is seen by the file ``harm``."""
    with pytest.raises(InputError, match="TRUST_WEIGHTS") as error:
        read_checkpoint(path)
    assert "open" in str(error.value) and not harm.exists()
    read_checkpoint(path, trust=True)
    assert harm.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, pickle.HIGHEST_PROTOCOL])
def test_an_attack_in_a_pickle_is_refused_and_does_not_run(tmp_path, protocol):
    harm = tmp_path / "harm"
    path = pickled(tmp_path / "x.pkl", {"model": dict(WEIGHTS), "extra": _Attack(harm)}, protocol)
    check_runs_only_if_trusted(path, harm)


@pytest.mark.parametrize("old_format", [False, True])
def test_an_attack_in_a_torch_file_is_refused_and_does_not_run(tmp_path, old_format):
    harm = tmp_path / "harm"
    path = saved(tmp_path / "x.pth", {"model": tensors(), "extra": _Attack(harm)}, old_format)
    check_runs_only_if_trusted(path, harm)


def test_what_needs_a_class_of_its_program_is_refused_without_trust(tmp_path):
    path = saved(tmp_path / "x.pth", {"model": tensors(), "args": _Settings()})
    with pytest.raises(InputError, match="_Settings"):
        read_checkpoint(path)
    assert read_checkpoint(path, trust=True)["args"].depth == 50


@pytest.mark.parametrize(
    "reduction",
    [
        b"cnumpy.core.multiarray\n_reconstruct\n",  # allowed, but what it makes has no content
        b"cnumpy\nload\n",
        b"cbuiltins\neval\n",
        b"cnumpy.f2py\ncompile\n",
    ],
)
def test_no_function_but_those_of_arrays_can_be_called(tmp_path, reduction):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02}U\x05model" + reduction + b"(U\x01aU\x01bU\x01ctRs.")
    with pytest.raises(InputError):
        read_checkpoint(tmp_path / "x.pkl")


def test_a_small_pickle_does_not_unfold_into_a_large_one(tmp_path):
    many = {"w": np.zeros(1, np.float32)}
    for _ in range(3):  # a million references, in a few kilobytes; a copy of each would be 10**9 entries
        many = {f"{i}": many for i in range(1000)}
    path = pickled(tmp_path / "x.pkl", {"model": many})
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match="not a tensor"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b'{"model": 1}', "JSON"),
        (b"\x80\x04nonsense", "not a readable checkpoint"),
        (b"PK\x03\x04nonsense", "not a readable checkpoint"),
        (b"GIF89a", "not a readable checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content, words):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        read_checkpoint(tmp_path)
    with pytest.raises(InputError, match="No such file"):
        read_checkpoint(tmp_path / "x.pth")


def test_a_zip_of_something_else_and_a_zip_bomb_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("model.pth", b"x")
    with pytest.raises(InputError, match="that torch.save did not write"):
        read_checkpoint(tmp_path / "other.zip")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    with pytest.raises(InputError, match="states 10000000 bytes"):
        read_checkpoint(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"model": 3}, {"model": {}}, {"model": {"a": "text"}}, {"model": {1: torch.zeros(1)}}, {"a": {"b": 1}}],
)
def test_plain_values_that_are_no_weights_are_refused(tmp_path, content):
    with pytest.raises(InputError):
        read_checkpoint(saved(tmp_path / "x.pth", content))


def test_a_tensor_whose_shape_the_file_has_no_values_for_is_refused(tmp_path):
    huge = torch.zeros(1).expand(10**12)
    with pytest.raises(InputError, match="fewer values|more than the file has"):
        read_checkpoint(saved(tmp_path / "x.pth", {"model": {"a": huge}}))


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    for name, write in (("x.pth", saved), ("x.pkl", pickled)):
        whole = write(tmp_path / name, {"model": tensors() if write is saved else dict(WEIGHTS)}).read_bytes()
        for length in range(1, len(whole) - 1, max(1, len(whole) // 60)):
            (tmp_path / "cut").write_bytes(whole[:length])
            with pytest.raises(InputError):
                read_checkpoint(tmp_path / "cut")


def _examples() -> list[bytes]:
    zipped, old = io.BytesIO(), io.BytesIO()
    torch.save({"model": tensors()}, zipped)
    torch.save({"model": tensors()}, old, _use_new_zipfile_serialization=False)
    return [zipped.getvalue(), old.getvalue(), *(pickle.dumps({"model": WEIGHTS}, p) for p in (2, 4))]


EXAMPLES = _examples()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(range(len(EXAMPLES))),
    st.lists(st.tuples(st.integers(0, 5000), st.binary(min_size=1, max_size=4)), max_size=4),
)
@example(2, [(20, struct.pack("<I", 2**31 - 1))])
def test_only_input_errors_come_out_of_a_damaged_file(tmp_path, which, changes):
    content = bytearray(EXAMPLES[which])
    for place, change in changes:
        place %= len(content)
        content[place : place + len(change)] = change
    (tmp_path / "x").write_bytes(content)
    try:
        state = read_checkpoint(tmp_path / "x")["model"]
    except InputError:
        return
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    for value in state.values():
        value.sum()  # whatever was read can be read


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04"]), st.binary(max_size=200))
def test_only_input_errors_come_out_of_random_bytes(tmp_path, start, rest):
    (tmp_path / "x").write_bytes(start + rest)
    with pytest.raises(InputError):
        read_checkpoint(tmp_path / "x")


# ------------------------------------------------------------------ where files are read


def test_a_checkpointer_loads_what_detectron2s_loads(tmp_path):
    saved(tmp_path / "x.pth", {"model": {"weight": torch.ones(2, 3), "bias": torch.ones(2)}, "iteration": 5})
    model = torch.nn.Linear(3, 2)
    rest = Checkpointer(model).load(str(tmp_path / "x.pth"))
    assert rest["iteration"] == 5 and torch.equal(model.weight, torch.ones(2, 3))
    with pytest.raises(InputError, match="unknown query parameter"):
        Checkpointer(model).load(f"{tmp_path}/x.pth?heuristics=True")


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_an_attack_is_refused_wherever_weights_are_named(tmp_path, tiny_cfg, suffix):
    harm = tmp_path / "harm"
    content = {"model": tensors(), "trainer": {"iteration": 1, "run": "a"}, "extra": _Attack(harm)}
    path = str((saved if suffix == "pth" else pickled)(tmp_path / f"x.{suffix}", content))

    with pytest.raises(InputError, match="TRUST_WEIGHTS"):  # evaluation and prediction
        load_for_evaluation(build_model(tiny_cfg), path)
    with pytest.raises(InputError, match="TRUST_WEIGHTS"):  # conversion
        convert_checkpoint(path, tmp_path / "y.pth")
    with pytest.raises(InputError, match="not a saved training step"):
        replay(path)

    tiny_cfg.MODEL.WEIGHTS = path
    trainer = Trainer(tiny_cfg)
    with pytest.raises(InputError, match="TRUST_WEIGHTS"):  # the start of a training
        trainer.resume_or_load(resume=False)
    os.makedirs(tiny_cfg.OUTPUT_DIR, exist_ok=True)
    shutil.copy(path, os.path.join(tiny_cfg.OUTPUT_DIR, "model_0000001.pth"))
    with open(os.path.join(tiny_cfg.OUTPUT_DIR, "last_checkpoint"), "w") as file:
        file.write("model_0000001.pth")
    with pytest.raises(InputError):
        trainer.resume_or_load(resume=True)

    tiny_cfg.MODEL.META_ARCHITECTURE = "DecoupledRCNN"
    with pytest.raises(InputError, match="TRUST_WEIGHTS"):
        load_first_stage(build_model(tiny_cfg), path, Identity.from_config(tiny_cfg))
    assert not harm.exists()


def test_a_download_that_is_a_web_page_is_found_before_anything_is_built(tmp_path):
    (tmp_path / "x.pkl").write_text("<html>Sign in</html>")
    with pytest.raises(InputError, match="web page"):
        check_weights(str(tmp_path / "x.pkl"))


def test_a_config_can_not_run_code(tmp_path):
    harm = tmp_path / "harm"
    (tmp_path / "x.yaml").write_text(f"MODEL:\n  WEIGHTS: !!python/object/apply:os.mknod ['{harm}']\n")
    with pytest.raises(InputError):
        load_config(tmp_path / "x.yaml", [])
    assert not os.path.exists(harm)
