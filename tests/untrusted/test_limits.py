"""No checkpoint file takes more memory than one of its size can need, or a time without end."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from balanced_lvis.classification.checkpoints import read_checkpoint as read_classification_checkpoint
from balanced_lvis.engine.checkpoints.checkpoint_file import read_checkpoint
from balanced_lvis.utils.errors import InputError
from tests.memory import outcomes_within

LIMIT = 600 << 20  # bytes of address space
SETUP = "from balanced_lvis.engine.checkpoints.checkpoint_file import read_checkpoint as read"


def assert_refused(*paths, words=""):
    for path, outcome in zip(paths, outcomes_within(LIMIT, SETUP, paths)):
        assert outcome.startswith("refused") and words in outcome, f"{path.name}: {outcome}"


def zipped(path, pickled, storages=()):
    """A file in torch's format with a pickle of one's own and storages of these numbers of bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for key, size in enumerate(storages):
            archive.writestr(f"archive/data/{key}", bytes(size))
        archive.writestr("archive/version", "3\n")
    return path


def called(name: bytes, *arguments) -> bytes:
    """The opcodes of a call with integers."""
    return b"c" + name + b"\n(" + b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in arguments) + b"tR"


def storage(numel: int, key=b"0") -> bytes:
    return (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00" + key + b"X\x03\x00\x00\x00cpu"
        b"\x8a\x08" + struct.pack("<q", numel) + b"tQ"
    )


def tensor(numel: int, size: int, stride=1) -> bytes:
    shape, steps = (b"(\x8a\x08" + struct.pack("<q", n) + b"t" for n in (size, stride))
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(numel) + b"K\x00" + shape + steps + b"\x89"
        b"ccollections\nOrderedDict\n)RtR"
    )


def under_model(value: bytes) -> bytes:
    return b"\x80\x02}X\x05\x00\x00\x00model}X\x01\x00\x00\x00a" + value + b"ss."


HOSTILE = {
    "bytearray": called(b"__builtin__\nbytearray", 3 * 10**9),
    "tensor": called(b"torch\nTensor", 10**9),
    "tensor of a type": called(b"torch\nFloatTensor", 10**9),
    "storage": called(b"torch\nUntypedStorage", 4 * 10**9),
    "beyond its storage": tensor(4, 10**9),
    "strided beyond its storage": tensor(4, 2, 10**9),
    "storage beyond the file": tensor(10**9, 10**9),
    "sets": b"\x8f" * 4_000_000 + b"0" * 3_999_999,
    "dicts": b"(" + b"}" * 9_000_000 + b"l",
    "copies": b"(" + b"K\x00" * 500_000 + b"lq\x01" + b"0c__builtin__\nset\nh\x01\x85R" * 3000,
}


def test_a_torch_file_allocates_no_more_than_its_size_allows(tmp_path):
    assert_refused(*(zipped(tmp_path / f"{name}.pth", under_model(HOSTILE[name]), [16]) for name in HOSTILE))


def test_image_classification_checks_sizes_before_it_loads_a_file(tmp_path):
    path = zipped(tmp_path / "x.pth", under_model(HOSTILE["beyond its storage"]), [16])
    with pytest.raises(InputError, match="RefusedError: a tensor with a shape of .*, for which the file has no values"):
        read_classification_checkpoint(path)


def old(content: bytes) -> bytes:
    """In the format of before torch 1.6."""
    file = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, file, _use_new_zipfile_serialization=False)
    whole = file.getvalue()
    head = io.BytesIO(whole)
    for _ in range(3):
        pickle.load(head)
    return whole[: head.tell()] + content + b"\x80\x02]X\x01\x00\x00\x000a." + struct.pack("<q", 4) + bytes(16)


def test_an_old_torch_file_neither(tmp_path):
    names = ["bytearray", "tensor", "beyond its storage", "storage beyond the file"]
    for name in names:
        (tmp_path / name).write_bytes(old(under_model(HOSTILE[name]).replace(b"tQ", b"NtQ")))
    assert_refused(*(tmp_path / name for name in names))


def test_the_old_format_of_these_tests_is_read(tmp_path):
    (tmp_path / "x.pth").write_bytes(old(under_model(tensor(4, 4)).replace(b"tQ", b"NtQ")))
    assert torch.equal(read_checkpoint(tmp_path / "x.pth")["model"]["a"], torch.zeros(4))
    zipped(tmp_path / "y.pth", under_model(tensor(4, 4)), [16])
    assert torch.equal(read_checkpoint(tmp_path / "y.pth")["model"]["a"], torch.zeros(4))


CONTENT = 10_000_000
TEXT = b"X" + struct.pack("<I", CONTENT) + b"a" * CONTENT + b"q\x00"
DTYPE = b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1K\x00K\x01tRq\x02"
BYTES = b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR"
REPEATED = {
    "encode": BYTES,
    "frombuffer": b"cnumpy._core.numeric\n_frombuffer\n(h\x01h\x02J" + struct.pack("<i", CONTENT)
    + b"\x85X\x01\x00\x00\x00CtR",
}  # fmt: skip


def test_a_pickle_does_not_repeat_a_large_value(tmp_path):
    for name, repeated in REPEATED.items():
        values = TEXT + b"0" + BYTES + b"q\x010" + DTYPE + b"0" + under_model(b"(" + repeated * 300 + b"l")[2:]
        (tmp_path / name).write_bytes(b"\x80\x02" + values)
    assert_refused(*(tmp_path / name for name in REPEATED), words="of memory")


def test_a_pickle_of_a_million_empty_containers_is_refused(tmp_path):
    for number, opcode in enumerate([b"\x8f", b"}", b"]", b"(", b"N\x85", b"(\x91"]):
        (tmp_path / str(number)).write_bytes(b"\x80\x04(" + opcode * 5_000_000 + b"l.")
    assert_refused(*(tmp_path / str(number) for number in range(6)), words="of memory")


@pytest.mark.parametrize("put_in", [b"N", b"\x90"])
def test_a_key_that_takes_for_ever_to_hash_is_refused(tmp_path, put_in):
    nested = b"K\x01" + b"2\x86" * 100
    content = b"\x80\x04}" + nested + b"Ns." if put_in == b"N" else b"\x80\x04\x8f(" + nested + b"\x90."
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(InputError, match="a key of type tuple"):
        read_checkpoint(tmp_path / "x.pkl")


NESTED = b"K\x01" + b"2\x86" * 100  # a tuple of 2**100 values, in words


@pytest.mark.parametrize(
    "value",
    [
        b"cnumpy\ndtype\n(" + NESTED + b"tR",
        b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1tR(K\x01" + NESTED + b"tb",
        b"c_codecs\nencode\n(X\x01\x00\x00\x00a" + NESTED + b"tR",
        NESTED,
        b"K\x01" + b"2\x86l" * 3,
    ],
)
def test_a_value_whose_words_have_no_end_is_refused(tmp_path, value):
    (tmp_path / "x.pkl").write_bytes(under_model(value))
    with pytest.raises(InputError):
        read_checkpoint(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    "value",
    [
        NESTED + b"Q",
        storage(4).replace(b"\x8a\x08" + struct.pack("<q", 4), NESTED),
        tensor(4, 4).replace(b"(\x8a\x08" + struct.pack("<q", 1), b"(" + NESTED),
        NESTED,
    ],
)
def test_a_value_whose_words_have_no_end_is_refused_in_a_torch_file(tmp_path, value):
    with pytest.raises(InputError):
        read_checkpoint(zipped(tmp_path / "x.pth", under_model(value), [16]))


@pytest.mark.parametrize("code", [b"I", b"L"])
def test_a_number_of_a_million_digits_is_refused(tmp_path, code):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02" + code + b"9" * 1_000_000 + b"\n.")
    with pytest.raises(InputError, match="a number of 1,000,000 characters"):
        read_checkpoint(tmp_path / "x.pkl")


def test_what_is_refused_for_its_memory_is_read_with_trust(tmp_path):
    many = {f"{i}": {} for i in range(400_000)}
    for path, save in ((tmp_path / "x.pth", torch.save), (tmp_path / "x.pkl", None)):
        content = {"model": {"a": torch.ones(1) if save else np.ones(1, np.float32)}, "many": [many] * 2}
        if save:
            save(content, path)
        else:
            path.write_bytes(pickle.dumps(content, 2))
        with pytest.raises(InputError, match=r"bytes would take more than .* of memory.*TRUST_WEIGHTS"):
            read_checkpoint(path)
        assert len(read_checkpoint(path, trust=True)["many"][1]) == 400_000


def test_a_large_optimizer_state_of_small_values_is_read(tmp_path):
    content = {
        "model": {"a": torch.ones(3)},
        "optimizer": {"state": {i: {"step": i, "momentum": 0.5 * i, "betas": (0.9, 0.999)} for i in range(50_000)}},
    }
    torch.save(content, tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth")["optimizer"] == content["optimizer"]


def test_tensors_of_every_layout_in_torch_files_are_read(tmp_path):
    base = torch.arange(24.0)
    content = {
        "view": base[3:9], "transposed": base.reshape(4, 6).T, "empty": torch.zeros(0, 4), "scalar": torch.tensor(3),
        "half": torch.ones(3, dtype=torch.bfloat16), "bool": torch.tensor([True]),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }  # fmt: skip
    for old_format in (False, True):
        path = tmp_path / "x.pth"
        torch.save({"model": content}, path, _use_new_zipfile_serialization=not old_format)
        read = read_checkpoint(path)["model"]
        assert all(torch.equal(read[name], value) for name, value in content.items())
