"""Registry of classes that are chosen by name and built from keyword options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from .errors import InputError, did_you_mean
from .keyword_options import keyword_options

T = TypeVar("T")


class Registry(Generic[T]):
    """
    Classes by name.

    Args:
        kind: noun for the classes in messages, such as "activation".
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._classes: dict[str, type[T]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """
        Class decorator.

        Raises:
            InputError: if the name is taken.
        """

        def decorate(cls: type[T]) -> type[T]:
            if name in self._classes:
                taken = self._classes[name]
                raise InputError(
                    f"{self.kind.capitalize()} {name!r} is registered already, by {taken.__module__}.{taken.__name__}; "
                    "choose another name."
                )
            self._classes[name] = cls
            return cls

        return decorate

    def get(self, name: str) -> type[T]:
        """
        Raises:
            InputError: for an unknown name, listing the valid ones.
        """
        if name not in self._classes:
            hint = did_you_mean(name, self._classes)
            raise InputError(f"Unknown {self.kind} {name!r}.{hint} Valid: {', '.join(self)}.")
        return self._classes[name]

    def build(self, name: str, *args, **options) -> T:
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
