"""Imported chains, whose images another program drew: how they are recognised, and what is not known of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imgloop import store
from imgloop.errors import UserError
from imgloop.study import tables

MARK = "imported"  # a key of record.json: where the images of a generation come from
NOTE = (
    "Imported: another program trained the models and drew the images. Their training sets and losses are not known, "
    "nor whether the chains of one seed share generation 0 and random numbers."
)


def source_of(chain: Path) -> dict[str, Any] | None:
    """Where the images of a chain's generation 0 come from (path, hash, images); None for a chain of our own, and for
    one that cannot be read, which is reported elsewhere."""
    try:
        record = store.read_json(Path(chain) / "gen000" / "record.json")
    except UserError:
        return None
    source = record.get(MARK) if isinstance(record, dict) else None
    return source if isinstance(source, dict) else None


def is_imported(study: Path) -> bool:
    """Whether the chains of a study were imported; a study has chains of one kind."""
    return any(source_of(chain) is not None for chain in tables.chains(Path(study))[:1])


def refuse_imported(study: Path) -> None:
    """Raise UserError for a study of imported chains, in which nothing can be trained."""
    if is_imported(study):
        raise UserError(
            f"{study} was imported from another program, and nothing is trained in it: give study=NEW; "
            "python -m imgloop.study import adds chains to it, python -m imgloop.measure measures them again.",
            "study",
        )
