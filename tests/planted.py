"""Tables of simulated chains in which a kind of collapse is planted, for tests of the collapse profile."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from imgloop.collapse import definitions
from imgloop.collapse.profile import collapse_profile

ttest: Any = stats.ttest_1samp  # its stubs lack the attributes of its result
G = 8
T = np.arange(G + 1)
LOG = np.cumsum(1 / (T + 1)) - 1  # harmonic growth
QUIET = {  # values of a chain without collapse
    "risk": 0.5,
    "variance_ratio": 1.0,
    "mode_share_min": 0.9,
    "tail_mass": 1.0,
    "off_support": 0.01,
    "ambiguity": 0.01,
}
PLANTED = {
    1: {"risk": 0.05 * T},
    2: {"risk": 0.1 * (T > 0)},
    3: {"risk": 0.05 * T},
    4: {"variance_ratio": 0.8**T},
    6: {"mode_share_min": 0.6**T},
    7: {"tail_mass": 0.85**T},
    8: {"off_support": 0.01 * T},
}


def table(planted=None, seeds=6, last=G, noise=0.002, rng=0, quarter=False, **columns) -> Any:
    """A plain table of chains "loop" and controls "real_only" that share a level for each seed, with small errors.

    planted: by measure, one value for each generation, added to the loop's values (ratios are multiplied by it).
    """
    rng, planted, rows = np.random.default_rng(rng), planted or {}, []
    for seed in range(seeds):
        level = {m: rng.normal() for m in QUIET}
        for condition in ("loop", "real_only") + (("quarter",) if quarter else ()):
            for t in range(last + 1):
                row = {"condition": condition, "seed": seed, "generation": t, **columns}
                for m, usual in QUIET.items():
                    value = usual * np.exp(0.05 * level[m] + noise * rng.normal() * (t > 0))
                    if condition == "loop" and m in planted:
                        change = float(np.broadcast_to(planted[m], T.shape)[t])
                        value = value * change if m in definitions.FLOORS else value + change
                    if condition == "quarter" and m == "risk":
                        value += 0.1
                    row[m] = value
                rows.append(row)
    return pd.DataFrame(rows)


def verdicts(frame, **more):
    return {k: v.verdict for k, v in collapse_profile(frame, **more)["loop"].items()}
