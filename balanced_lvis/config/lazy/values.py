"""Reading of values of a LazyConfig, and setting of config keys to them."""

from __future__ import annotations

from detectron2.config import CfgNode as CN
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ...config_files.merging import set_value
from ...lazy_config.files import target_of
from ...utils.errors import InputError


def called(lazy: DictConfig, name: str, classes: tuple[type, ...]):
    """The class that a node calls, which must be one of some classes or derived from one."""
    node = select(lazy, name)
    target = target_of(node) if isinstance(node, DictConfig) and "_target_" in node else None
    if not isinstance(target, type) or not issubclass(target, classes):
        found = "missing" if target is None else getattr(target, "__name__", target)
        raise InputError(
            f"{name} of the LazyConfig is {found}; it must be L(...) of "
            f"{' or '.join(f'{cls.__module__}.{cls.__name__}' for cls in classes)}."
        )
    return target


def select(node, name: str):
    """A value by its dotted name, interpolations resolved; None where there is none."""
    try:
        return OmegaConf.select(node, name)
    except OmegaConfBaseException as error:
        raise InputError(f"The LazyConfig's {name} can't be read: {error}") from error


def plain(value):
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def as_names(value, where: str) -> tuple[str, ...]:
    """The names of datasets in the value of a key, called ``where`` in messages."""
    value = [value] if isinstance(value, str) else plain(value)
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise InputError(
            f"{where} of the LazyConfig is {value!r}; it must be the name of a dataset, or a list of names."
        )
    return tuple(value)


def set_key(cfg: CN, key: str, value, name: str) -> None:
    """Set a config key to the value of a key of the LazyConfig, called ``name`` in messages."""
    set_value(cfg, key, plain(value), name)
