"""Checks of the nodes of a LazyConfig: those that must exist, and keys that nothing reads."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

from ...config_files.names import ENGINE, NODES
from ...lazy_config.files import target_of
from ...utils.errors import InputError, did_you_mean
from .keys import BUILDERS, DATA, OTHER, TRAIN, WITHOUT_EFFECT
from .values import select


def check_nodes(lazy: DictConfig, path: str) -> None:
    if not isinstance(lazy.get(ENGINE, DictConfig({})), DictConfig):
        raise InputError(
            f"{path}: {ENGINE} is {lazy[ENGINE]!r}; it must be a dictionary of keys, such as "
            f"{ENGINE}.MODEL.EMA.ENABLED=True."
        )
    for name in NODES:
        if not isinstance(lazy.get(name), DictConfig):
            raise InputError(
                f"{path} has no dictionary {name!r}; a LazyConfig to train must define {', '.join(NODES)}, and may "
                f"define {ENGINE}. Is it a file that other configs import?"
            )
    for found in map(str, lazy):
        if found not in (*NODES, ENGINE):
            raise InputError(
                f"{path}: the dictionary {found!r} has no effect.{did_you_mean(found, (*NODES, ENGINE))} Valid: "
                f"{', '.join((*NODES, ENGINE))}. Names of other dictionaries must begin with an underscore."
            )
    for name in ("model", "optimizer", "lr_multiplier"):
        if "_target_" not in lazy[name]:
            raise InputError(f"{path}: {name} has no _target_; make it with LazyCall, such as L(GeneralizedRCNN)(...).")


def check_data_and_train(lazy: DictConfig) -> None:
    """Refuses keys that nothing reads, and other loaders, which could not be resumed."""
    known = {*TRAIN.values(), *DATA.values(), *WITHOUT_EFFECT, *OTHER}
    for name in _leaves(lazy, known):
        section = name.rpartition(".")[0]
        valid = sorted(key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == section)
        raise InputError(
            f"The LazyConfig sets {name}, which is not supported.{did_you_mean(name.rpartition('.')[2], valid)} Valid "
            f"under {section}: {', '.join(valid)}."
        )
    for name, builder in BUILDERS.items():
        node = select(lazy, name)
        if node is None and name.startswith("dataloader.test"):
            continue
        if not isinstance(node, DictConfig) or target_of(node) is not builder:
            raise InputError(
                f"{name} of the LazyConfig must be L({builder.__name__})(...), from detectron2.data: its arguments are "
                "read, and the loader is one that can be resumed."
            )


def _leaves(lazy: DictConfig, known: set[str]) -> Iterator[str]:
    """Keys under ``train`` and ``dataloader`` that are not known, nor a section with known keys."""
    sections = {key.rsplit(".", depth)[0] for key in known for depth in range(1, key.count(".") + 1)}
    stack = ["train", "dataloader"]
    while stack:
        for key in select(lazy, above := stack.pop()) or ():
            name = f"{above}.{key}"
            if name in sections and isinstance(select(lazy, name), DictConfig):
                stack.append(name)
            elif name not in known and key != "_target_":
                yield name
