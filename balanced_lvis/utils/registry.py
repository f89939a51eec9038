"""Registry of classes and functions that are chosen by name and called with keyword options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from .errors import InputError, did_you_mean
from .keyword_options import keyword_options

T = TypeVar("T", bound=Callable)


class Registry(Generic[T]):
    """
    Classes, or functions that build instances, by name.

    Args:
        kind: noun for the classes in messages, such as "activation".
        key: config key of the name, for messages about unknown names.
    """

    def __init__(self, kind: str, key: str = ""):
        self.kind, self.key = kind, key
        self._classes: dict[str, T] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def register(self, name: str) -> Callable[[T], T]:
        """
        Decorator.

        Raises:
            InputError: if the name is taken.
        """

        def decorate(cls: T) -> T:
            if name in self._classes:
                taken = self._classes[name]
                raise InputError(
                    f"{self.kind.capitalize()} {name!r} is registered already, by {taken.__module__}.{taken.__name__}; "
                    "choose another name."
                )
            self._classes[name] = cls
            return cls

        return decorate

    def get(self, name: str) -> T:
        """
        Raises:
            InputError: for an unknown name, listing the valid ones.
        """
        if name not in self._classes:
            hint = did_you_mean(name, self._classes)
            unknown = f"{self.key}: unknown" if self.key else "Unknown"
            raise InputError(f"{unknown} {self.kind} {name!r}.{hint} Valid: {', '.join(self)}.")
        return self._classes[name]

    def build(self, name: str, *args, **options) -> Any:
        """
        An instance of the class ``name``.

        Args:
            name: registered name.
            *args: positional arguments of the constructor.
            **options: keyword-only arguments of the constructor.

        Raises:
            InputError: for an unknown name or option.
        """
        cls = self.get(name)
        valid = keyword_options(cls)
        for option in options:
            if option not in valid:
                raise InputError(f"{name} has no option {option!r}; valid: {', '.join(valid) or 'none'}.")
        return cls(*args, **options)
