"""Tables in Markdown, as the scripts print them and the docs show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """The lines of a table; rows may come one by one."""
    yield from header(*head)
    for cells in rows:
        yield row(*cells)


def header(*names: object) -> list[str]:
    """The two lines above the rows."""
    return [row(*names), "|---" * len(names) + "|"]


def row(*cells: object) -> str:
    """One line; a bar in a cell is escaped."""
    return "| " + " | ".join(str(c).replace("|", r"\|") for c in cells) + " |"
