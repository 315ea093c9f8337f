"""A study's folder or a CSV file as the plain table that the collapse profile reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from imgloop.measures import MEASURES, of_role
from imgloop.study import solved
from imgloop.study import tables as study
from imgloop.study.study import Study

# Which quantity of a solvable system serves as a measure: the first that the system has. Scales cancel against the
# control.
SYSTEMS = {
    "risk": ("excess", "w2", "squared_error"),
    "variance_ratio": ("variance", "heterozygosity", "density_variance"),
    "ambiguity": ("ambiguous",),
}
APART = 10**6  # replicate r of seed k is chain k * APART + r


def read_table(path: str | Path, on_fault: Callable[[str], None] | None = None) -> Any:
    """The plain table (pandas) of a study's folder or a CSV file; raises UserError where `path` is neither.

    In a study of solvable systems each replicate is a chain. With `on_fault`, chains that cannot be read are left out,
    and it is called with one sentence for each; without it the first of them raises UserError.
    """
    path = Path(path)
    if path.is_dir():
        chains = study.chains(path)
        if chains and all(map(study.is_solved, chains)):
            return systems(path)
        opened = Study(path, tolerant=on_fault is not None)
        if on_fault is not None:
            for fault in opened.damaged:
                on_fault(fault)
        return opened.table
    return study.csv_frame(path)


def systems(path: str | Path) -> Any:
    """A study of solvable systems as a plain table (pandas): one row a replicate and generation, quantities as
    measures (SYSTEMS), and its other quantities under their own names.

    An absorbed chain is continued to the study's last generation with its last values, which do not change.
    """
    import pandas as pd

    risks = of_role("risk")
    judged = [name for name, info in MEASURES.items() if info.role not in (None, "risk")]
    frames, chains = [], study.chains(Path(path))
    longest = max(solved.record(c)["generations"] for c in chains)
    for chain in chains:
        record, metrics = solved.record(chain), study.table(chain)
        values = solved.replicates(chain)
        if record["absorbed"]:
            values = {k: v[np.minimum(np.arange(longest), len(v) - 1)] for k, v in values.items()}
        generations, replicates = next(iter(values.values())).shape
        sources = {name: next((q for q in quantities if q in values), None) for name, quantities in SYSTEMS.items()}
        sources |= {m: m for m in judged if m in values and sources.get(m) is None}
        sources |= {q: q for q in values if q not in risks and q not in sources}
        columns = {m: np.asarray(values[q], float).T.ravel() for m, q in sources.items() if q}
        n_train: Any = metrics["n_train"]
        frames.append(
            pd.DataFrame(
                {
                    "condition": record["condition"],
                    "seed": np.repeat(int(chain.name[4:]) * APART + np.arange(replicates), generations),
                    "generation": np.tile(np.arange(generations), replicates),
                    "n_train": np.tile(n_train.reindex(range(generations)).ffill(), replicates),
                    **columns,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)
