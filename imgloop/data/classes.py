"""Selection of classes of labelled images, and of the number of images in each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imgloop.errors import UserError

SETTING = "data.classes"


def long_tail(labels: np.ndarray, classes: Sequence[str], ratio: float) -> np.ndarray:
    """Rows int64, ascending, of a subset with exponentially decreasing classes: n_c = n_0 ratio^(-c / (C - 1)), rounded
    down, the first rows of each class, with n_0 as large as the images allow.

    `labels` int64 (N,) in [0, C). The profile of CIFAR-10-LT (Cao et al. 2019, arXiv:1906.07413). Raises UserError
    if a class would be empty.
    """
    counts = np.bincount(labels, minlength=len(classes))
    profile = float(ratio) ** (-np.arange(len(classes)) / (len(classes) - 1))
    targets = np.floor((counts / profile).min() * profile + 1e-9).astype(np.int64)
    if targets.min() < 1:
        at = int((counts if counts.min() < 1 else targets).argmin())
        raise UserError(
            f"data.imbalance={ratio:g} leaves no training image of class {classes[at]!r}, which has {counts[at]}; "
            + (f"use data.imbalance={targets.max()} or less" if counts[at] else "remove it")
            + ", or add images.",
            "data.imbalance",
        )
    rank = np.empty(len(labels), np.int64)  # position of a row within its class
    for c in range(len(classes)):
        here = labels == c
        rank[here] = np.arange(counts[c])
    return np.flatnonzero(rank < targets[labels])


def chosen(classes: Sequence[str] | None, wanted: Sequence[str | int] | None) -> list[int] | None:
    """Indices of the `wanted` classes in their order; None for None. Raises UserError for classes that do not exist.

    A number is a class name if there is such a class, else an index into `classes`, from 0.
    """
    if wanted is None:
        return None
    if classes is None:
        raise UserError(f"data.classes={_list(wanted)} needs classes, and these images have none; remove it.", SETTING)
    indices = []
    for w in wanted:
        if str(w) in classes:
            indices.append(list(classes).index(str(w)))
        elif isinstance(w, int) and 0 <= w < len(classes):
            indices.append(w)
        else:
            names = ", ".join(classes[:12]) + (f" and {len(classes) - 12} more" if len(classes) > 12 else "")
            raise UserError(
                f"data.classes={_list(wanted)}: {w} is none of the classes {names}; use these names, or numbers from 0 "
                f"to {len(classes) - 1}.",
                SETTING,
            )
    if len(set(indices)) < len(indices):
        raise UserError(f"data.classes={_list(wanted)} names a class twice; give each once.", SETTING)
    return indices


def only(
    x: np.ndarray, y: np.ndarray, classes: Sequence[str], selected: Sequence[int]
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None]:
    """Images, labels and names of the `selected` classes only, labelled in their order; one class has no labels."""
    rows, labels = relabelled(y, selected, len(classes))
    if len(selected) == 1:
        return x[rows], None, None
    return x[rows], labels, tuple(classes[k] for k in selected)


def relabelled(y: np.ndarray, selected: Sequence[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows int64, ascending, whose label is in `selected`, and their new labels, the positions in `selected`."""
    new_labels = np.full(count, -1)
    new_labels[list(selected)] = np.arange(len(selected))
    rows = np.flatnonzero(new_labels[y] >= 0)
    return rows, new_labels[y[rows]]


def _list(values: Sequence) -> str:
    return f"[{','.join(map(str, values))}]"
