"""A Griffe extension for mkdocstrings: names of arguments and fields that docstrings explain are set as code."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Names(griffe.Extension):
    """`images: how many` becomes `` `images`: how many`` where the object has an argument or member of this name."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        if obj.docstring is None:
            return
        names = {p.name for p in getattr(obj, "parameters", ())} | set(obj.members if obj.is_class else ())
        if names:
            pattern = rf"(?<![\w`.])({'|'.join(map(re.escape, sorted(names)))}):(?=\s)"
            obj.docstring.value = re.sub(pattern, r"`\1`:", obj.docstring.value)
