"""Mutations of valid files: of their values or of their bytes."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile

import torch
import yaml

_DEEP: list = []
for _ in range(150):
    _DEEP = [_DEEP]

# Replacements for values.
NASTY: tuple = (
    None, True, False, 0, -1, 1, 2, 7, 2**31, 2**63, 2**64, -(10**30), 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "x", "1", "nan", "x" * 3000, "\0", "\ud800", "../../etc/passwd", "/etc/passwd", "a/../../b", "http://x/y/z.jpg",
    [], {}, [[]], [{}], [1, 2, 3], [[1, 2, 3, 4, 5, 6]], [[0.5]], {"a": 1}, {"size": [3, 4], "counts": "0"},
    "-" * 20_000 + "1", "[" * 20_000, {"size": [10**6, 10**6], "counts": [10**12]},
    {"size": [3, 4], "counts": [12]}, {"size": [10**9, 10**9], "counts": "1" * 50}, _DEEP,
)  # fmt: skip

_BYTES = (b"\0", b"[" * 5000, b'{"a":' * 3000, b"\xff\xfe", b"9" * 400, b'"', b"}", b"-", b"\n", b"!!python/x ")

# Pickle opcodes that request memory and leave one value on the stack.
_GREEDY = (
    b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R", b"ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R",
    b"ctorch\nFloatStorage\nJ\xff\xff\xff\x7f\x85R", b"(" + b"}" * 300_000 + b"l", b"(" + b"\x8f" * 300_000 + b"l",
    b"(" + b"K\x00" * 1000 + b"lq\x7d0(" + b"c__builtin__\nset\nh\x7d\x85R" * 1000 + b"l", b"K\x01" + b"2\x86" * 60,
)  # fmt: skip
_ALIASES = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 11))])


def mutated_tree(tree, rng: random.Random):
    """
    Copy nested lists and dicts with one to three changes: a value replaced, removed, duplicated, renamed or moved.

    Args:
        tree: nested lists and dicts of plain values.
        rng: random generator.
    """
    tree = [copy.deepcopy(tree)]  # so that the root can be replaced too
    for _ in range(rng.choice((1, 1, 2, 3))):
        container, key = rng.choice(list(_places(tree)))
        _change(container, key, tree, rng)
    return tree[0]


def _places(node):
    """All (container, key) below a node; only the first items of long lists, so that other parts are drawn too."""
    items = list(enumerate(node[:6])) if isinstance(node, list) else list(node.items())
    for key, value in items:
        yield node, key
        if isinstance(value, (list, dict)):
            yield from _places(value)


def _change(container, key, tree, rng: random.Random) -> None:
    kind = rng.randrange(6)
    if kind <= 1:
        container[key] = copy.deepcopy(rng.choice(NASTY))
    elif kind == 2 and container is not tree:
        del container[key]
    elif kind == 3:
        other, other_key = rng.choice(list(_places(tree)))
        container[key] = copy.deepcopy(other[other_key])
    elif isinstance(container, dict):
        container[rng.choice(("", "id", "name", "size", "\0", 7 if kind == 4 else "x"))] = container[key]
    elif isinstance(container, list) and container is not tree:
        container.insert(rng.randrange(len(container) + 1), copy.deepcopy(container[key]))


def mutated_bytes(original: bytes, rng: random.Random) -> bytes:
    """Bytes with one to four changes: flipped, overwritten, truncated, removed, duplicated or inserted."""
    data = bytearray(original)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 4, 30, 1000)))
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:end] = rng.randbytes(end - at)
        elif kind == 2 and rng.random() < 0.3:
            del data[at:]
        elif kind == 3:
            del data[at:end]
        elif kind == 4:
            data[at:at] = data[at:end]
        else:
            data[at:at] = rng.choice(
                (b"\0", b"[" * 5000, b"\xff\xfe", b"9" * 400, b'"', b"}", b"-", b"\n", b"!!python/x ")
            )
    return bytes(data)


def mutated_json(data: bytes, rng: random.Random) -> bytes:
    """A JSON file with changed values, changed bytes or both."""
    if rng.random() < 0.75:
        data = _dumped(lambda tree: json.dumps(tree).encode(), mutated_tree(json.loads(data), rng), data)
    return data if rng.random() < 0.7 else mutated_bytes(data, rng)


def mutated_yaml(data: bytes, rng: random.Random) -> bytes:
    """A yaml file with changed values, changed bytes or both."""
    if rng.random() < 0.75:
        tree = mutated_tree(yaml.safe_load(data), rng)
        data = _dumped(lambda tree: yaml.safe_dump(tree).encode("utf-8", "surrogatepass"), tree, data)
    if rng.random() < 0.05:
        data += b"\n" + rng.choice((_ALIASES, "MODEL: &m {X: *m}", "_BASE_: .", "_BASE_: https://x/y.yaml")).encode()
    return data if rng.random() < 0.7 else mutated_bytes(data, rng)


def _dumped(dump, tree, otherwise: bytes) -> bytes:
    try:
        return dump(tree)
    except (RecursionError, TypeError, ValueError, yaml.YAMLError):  # not representable in this format
        return otherwise


def mutated_pickle(data: bytes, rng: random.Random) -> bytes:
    """A pickle with changed bytes, or with inserted opcodes that request memory or time."""
    if rng.random() < 0.95:
        return mutated_bytes(data, rng)
    at = rng.randrange(len(data))
    return data[:at] + rng.choice(_GREEDY) + data[at:]


def mutated_torch_file(data: bytes, rng: random.Random) -> bytes:
    """
    A file of ``torch.save`` with changed values, a changed pickle (with a correct checksum) or changed bytes.
    """
    kind = rng.randrange(4)
    if kind == 0:
        return mutated_bytes(data, rng)
    if kind == 1:
        return _with_pickle(data, lambda pickled: mutated_pickle(pickled, rng))
    tree = mutated_tree(torch.load(io.BytesIO(data), weights_only=True), rng)
    file = io.BytesIO()
    try:
        torch.save(tree, file)
    except (RecursionError, UnicodeEncodeError):
        return data
    return file.getvalue()


def _with_pickle(data: bytes, change) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(written, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return written.getvalue()
