"""Files that follow from the generations (tables, pictures): written again where they are missing, changed or old.

`.derived.json` beside them holds a key of everything that they were made from, and the hash of each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from imgloop import store
from imgloop.errors import UserError

FILE = ".derived.json"


def key_of(paths: Iterable[Path], *more: Any) -> str:
    """A key of files, by their place in the study and content, of versions, and of further JSON-able values."""
    made_by = [version(name) for name in ("imgloop", "matplotlib", "pandas", "pillow")]
    return store.content_key(
        [made_by, [["/".join(p.parts[-5:]), store.file_hash(p)] for p in paths if p.is_file()], *more]
    )


def current(folder: Path, key: str) -> bool:
    """Whether the files of a folder were made from what has this key, and are as they were written."""
    return _read(folder).get("key") == key and not changed(folder)


def changed(folder: Path) -> list[Path]:
    """The files that are not as they were written."""
    files = _read(folder).get("files", {})
    return [folder / n for n, h in files.items() if not (folder / n).is_file() or store.file_hash(folder / n) != h]


def count(folder: Path) -> int:
    """How many files follow from the generations."""
    return len(_read(folder).get("files", {}))


def recent(folder: Path, share: int) -> bool:
    """Whether the files were written so lately that writing them again would take more than one part in `share`."""
    seconds = _read(folder).get("seconds", 0)
    return 0 < seconds and 0 <= time.time() - (folder / FILE).stat().st_mtime < share * seconds


def _read(folder: Path) -> dict[str, Any]:
    """What stands in the file; nothing where it is missing or damaged, since all of it can be made again."""
    try:
        stored = store.read_json(folder / FILE)
        if isinstance(stored["files"], dict) and isinstance(stored.get("seconds", 0), int | float):
            return stored
    except (UserError, KeyError, TypeError):
        pass
    return {}


def write(folder: Path, key: str, files: Mapping[str, Callable[[], bytes]], **facts: float) -> None:
    """Write the files, and then, with further facts, what makes them count."""
    for name, make in files.items():
        store.write_bytes(folder / name, make())
    hashes = {name: store.file_hash(folder / name) for name in files}
    store.write_json(folder / FILE, {"key": key, "files": hashes, **facts})
