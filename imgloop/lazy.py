"""Public names of a package, imported at their first use, so that `python -m imgloop --help` answers at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attached(package: str, public: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for the package, whose names `public` gives with the modules that define them."""
    names = sorted(public)

    def get(name: str) -> Any:
        if name not in public:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}; the public names are {', '.join(names)}"
            )
        return getattr(import_module(public[name]), name)

    return get, lambda: names
