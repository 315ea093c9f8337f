"""Which classes of labelled images are kept, and how many images of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imgloop.errors import UserError


def long_tail(labels: np.ndarray, classes: Sequence[str], ratio: float) -> np.ndarray:
    """Rows int64, ascending, of a subset with exponentially falling classes: n_c = n_0 ratio^(-c / (C - 1)), rounded
    down, the first rows of each class, n_0 as large as the images allow.

    `labels` int64 (N,) in [0, C). The profile of CIFAR-10-LT (Cao et al. 2019, arXiv:1906.07413). Raises UserError
    where a class would be left empty.
    """
    counts = np.bincount(labels, minlength=len(classes))
    profile = float(ratio) ** (-np.arange(len(classes)) / (len(classes) - 1))
    kept = np.floor((counts / profile).min() * profile + 1e-9).astype(np.int64)
    if kept.min() < 1:
        at = int((counts if counts.min() < 1 else kept).argmin())
        raise UserError(
            f"data.imbalance={ratio:g} leaves no training image of class {classes[at]!r}, which has {counts[at]}; "
            + (f"use data.imbalance={kept.max()} or less" if counts[at] else "leave it out")
            + ", or add images."
        )
    rank = np.empty(len(labels), np.int64)  # of a row within its class
    for c in range(len(classes)):
        here = labels == c
        rank[here] = np.arange(counts[c])
    return np.flatnonzero(rank < kept[labels])


def chosen(classes: Sequence[str] | None, wanted: Sequence[str | int] | None) -> list[int] | None:
    """Indices of the `wanted` classes in the order asked for; None where nothing is chosen. Raises UserError.

    A number is a name where a class has that name, else the place in `classes`, from 0.
    """
    if wanted is None:
        return None
    if classes is None:
        raise UserError(f"data.classes={_list(wanted)} needs classes, and these images have none; leave it out.")
    found = []
    for w in wanted:
        if str(w) in classes:
            found.append(list(classes).index(str(w)))
        elif isinstance(w, int) and 0 <= w < len(classes):
            found.append(w)
        else:
            told = ", ".join(classes[:12]) + (f" and {len(classes) - 12} more" if len(classes) > 12 else "")
            raise UserError(
                f"data.classes={_list(wanted)}: {w} is none of the classes {told}; use these names, or numbers from 0 "
                f"to {len(classes) - 1}."
            )
    if len(set(found)) < len(found):
        raise UserError(f"data.classes={_list(wanted)} names a class twice; give each once.")
    return found


def only(
    x: np.ndarray, y: np.ndarray, classes: Sequence[str], kept: Sequence[int]
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None]:
    """Images, labels and names of the `kept` classes alone, labelled in their order; a single class has no labels."""
    rows, place = rows_of(y, kept, len(classes))
    if len(kept) == 1:
        return x[rows], None, None
    return x[rows], place, tuple(classes[k] for k in kept)


def rows_of(y: np.ndarray, kept: Sequence[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows int64, ascending, whose label is one of `kept`, and their new labels, the places in `kept`."""
    place = np.full(count, -1)
    place[list(kept)] = np.arange(len(kept))
    rows = np.flatnonzero(place[y] >= 0)
    return rows, place[y[rows]]


def _list(values: Sequence) -> str:
    return f"[{','.join(map(str, values))}]"
