"""A named collection that refuses duplicates and helps with misspelt names."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import Any, Callable, Iterable, Sequence, TypeVar

Entry = TypeVar("Entry")
MANY = 30  # an error lists no more names than that if some are near


class Registry:
    """Names to objects of one ``kind`` (in the singular, for messages), filled by a decorator."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Any] = {}
        self._later: dict[str, str] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Return a decorator that stores its argument under ``name``; ValueError if it is taken."""

        def decorator(entry: Entry) -> Entry:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered already")
            self._entries[name] = entry
            return entry

        return decorator

    def register_later(self, name: str, module: str) -> None:
        """Say which module registers ``name``, to be imported when the entry is asked for.

        This is how a layer offers what a layer above it defines.
        """
        self._later[name] = module

    def get(self, name: str) -> Any:
        """Return an entry; a ValueError lists the nearest names, and all of them."""
        if name not in self._entries and name in self._later:
            importlib.import_module(self._later[name])
        if name not in self._entries:
            raise ValueError(unknown_name(self.kind, name, self.names()))
        return self._entries[name]

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted({*self._entries, *self._later})

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._later

    def __len__(self) -> int:
        return len(self.names())


def nearest(name: object, valid: Iterable[str]) -> str:
    """Return up to three ``valid`` names that ``name`` may stand for, as text; '' if none."""
    near = difflib.get_close_matches(str(name), list(valid), n=3, cutoff=0.6)
    return " or ".join(repr(n) for n in near)


def unknown_name(kind: str, name: object, valid: Iterable[object]) -> str:
    """Return the text of an error about a name that is not one of ``valid``.

    It lists them, but of many only those that are near, if any is.
    """
    names = sorted(str(v) for v in valid)
    near = nearest(name, names)
    if near and len(names) > MANY:
        return f"unknown {kind} '{name}'; did you mean {near}? ({len(names)} are valid)"
    hint = f"did you mean {near}? " if near else ""
    return f"unknown {kind} '{name}'; {hint}valid: {', '.join(names) or '(none)'}"


def import_all(path: Iterable[str], package: str, but: Sequence[str] = ()) -> None:
    """Import all modules in and below a package, which registers what they define.

    Args:
        path: The package's ``__path__``.
        but: Names of modules right in it that are left out.
    """
    for found in pkgutil.iter_modules(path):
        if found.name not in but:
            module = importlib.import_module(f"{package}.{found.name}")
            if found.ispkg:
                import_all(module.__path__, module.__name__)
