"""Chains as the profile needs them: a plain table checked and told apart by condition and size, from a study, a CSV
file, or a solvable system whose replicates are chains."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from imgloop.collapse.definitions import RATES, RATIOS
from imgloop.errors import UserError

KEYS = ("condition", "seed", "generation")
RISKS = ("risk", "excess", "fd", "kd")  # what counts as the risk: the first that is measured
MEASURES = (
    *RISKS,
    "variance_ratio",
    "mode_share_min",
    "tail_mass",
    "off_support",
    "ambiguity",
    "rule_violations",
    "tail_risk",
)
SIZED = re.compile(r",(?:n_initial|data\.n)=([^,]*)")  # in a condition's name, how many real samples it trains on
# Knobs of one mixing rule, and settings that say how many samples it draws: a control has none of them.
MIXING_ONLY = ("real_fraction", "n_real", "n_synthetic", "budget", "edit_fraction", "n_samples")
SYSTEMS = {  # a solvable system's quantity, and the measure that it is; the first that it has
    "risk": ("excess", "w2", "squared_error"),
    "variance_ratio": ("variance", "heterozygosity", "density_variance"),  # the scale cancels against the control
    "ambiguity": ("ambiguous",),
}
APART = 10**6  # chains of a solvable system: seed k, replicate r is chain k * APART + r


@dataclass(frozen=True, eq=False)
class Condition:
    """The chains of one condition at one number of real samples (`size`, NaN where unknown). `given` is the table's
    name of it, `name` tells the size too, `base` does not."""

    given: str
    name: str
    base: str
    size: float
    frame: object  # pandas, indexed by seed and generation

    @cached_property
    def last(self) -> dict[int, int]:
        """Each seed's last generation."""
        return {int(s): int(g) for s, g in self.frame.reset_index().groupby("seed")["generation"].max().items()}

    def has(self, measure: str) -> bool:
        return measure in self.frame and bool(self.frame[measure].notna().any())

    def numeric(self, measure: str) -> bool:
        return measure in self.frame and self.frame[measure].dtype.kind in "iuf"

    def series(self, measure: str, seeds: list[int], last: int) -> np.ndarray:
        """float64 (S, last + 1), NaN where a chain has no finite value."""
        wide = self.frame[measure].unstack("generation").reindex(index=seeds, columns=range(last + 1))
        values = wide.to_numpy(float)
        return np.where(np.isfinite(values), values, np.nan)

    def infinite(self, measure: str, seeds: list[int]) -> list[int]:
        """The seeds of `seeds` at which the measure was infinite."""
        there = np.isinf(self.frame[measure].astype(float)).groupby("seed").any()
        return [s for s in seeds if there.get(s, False)]


def conditions(frame) -> list[Condition]:
    """A table's conditions, by name and size; raises UserError, in one sentence, for a table that is not one.

    Columns: condition, seed, generation, and any of MEASURES; `size`, the number of real samples, where it varies
    within a condition (imgloop's own tables tell it by n_train at generation 0).
    """
    frame = checked(frame)
    found = []
    for name, part in frame.groupby("condition", sort=False):
        sizes = [(np.nan, part)]
        if "size" in part:
            sizes = list(part.groupby("size", dropna=False, sort=True))
        elif "n_train" in part:
            first = part.loc[part["generation"] == 0, "n_train"].dropna().unique()
            sizes = [(first[0] if len(first) == 1 else np.nan, part)]
        for size, rows in sizes:
            label = f"{name},size={size:g}" if len(sizes) > 1 else str(name)
            indexed = rows.set_index(["seed", "generation"]).sort_index()
            if (twice := indexed.index.duplicated()).any():
                seed, generation = indexed.index[twice][0]
                raise UserError(
                    f"The table has generation {generation} of {label}, seed {seed}, more than once: give one row for "
                    "each condition, seed and generation."
                )
            size = size if np.isfinite(size) else named_size(str(name))
            base = SIZED.sub("", str(name)) if np.isfinite(size) else str(name)
            found.append(Condition(str(name), label, base, float(size), indexed))
    return found


def named_size(name: str) -> float:
    """The number of real samples that a condition's name tells, the last of several; NaN where it tells none."""
    try:
        size = float(SIZED.findall(name)[-1])
    except (IndexError, ValueError):
        return np.nan
    return size if np.isfinite(size) else np.nan


def checked(frame):
    """The table with whole seeds and generations and numbers for measures; raises UserError where they are not."""
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise UserError(
            f"collapse_profile takes a pandas table, not {type(frame).__name__}; imgloop.load_study(PATH) makes one of "
            "a study, pandas.read_csv of a file."
        )
    missing = [c for c in KEYS if c not in frame]
    measures = [c for c in MEASURES if c in frame]
    if missing or not measures:
        wanted = f"no column {' or '.join(missing)}" if missing else "no measure"
        indexed = "; its index has some of them: frame.reset_index()" if set(missing) & set(frame.index.names) else ""
        system = "" if missing else "; of a solvable system profile the folder, python -m imgloop.collapse STUDY"
        raise UserError(
            f"The table has {wanted}: it needs {', '.join(KEYS)} and at least one of {', '.join(MEASURES)}; it has "
            f"{', '.join(map(str, frame.columns)) or 'no columns'}{indexed}{system}."
        )
    shown = [] if "protocol" not in frame else frame[["protocol", "condition"]].dropna().drop_duplicates("protocol")
    if len(shown) > 1:
        told = ", ".join(f"{protocol} ({condition})" for protocol, condition in shown.to_numpy())
        raise UserError(
            f"The table holds numbers of different protocols, {told}, which cannot be compared: measure all alike, "
            "with python -m imgloop.measure."
        )
    if frame.empty:
        raise UserError("The table has no rows: give one for each condition, seed and generation.")
    if frame[list(KEYS)].isna().any().any():
        raise UserError("The table has rows without a condition, seed or generation: fill or drop them.")
    frame = frame.copy()
    for column in [*KEYS[1:], *measures, *(c for c in ("size", "n_train") if c in frame)]:
        try:
            if frame[column].dtype.kind in "Mmc":
                raise TypeError(f"its type is {frame[column].dtype}")
            numbers = pd.to_numeric(frame[column])
            frame[column] = numbers.astype(float) if column not in KEYS else numbers
        except (ValueError, TypeError) as e:
            raise UserError(f"Column {column} holds what is no number ({e}): give numbers, empty where missing.") from e
    for column in KEYS[1:]:
        if frame[column].dtype.kind in "iu" and frame[column].min() >= 0:
            continue  # whole as they are, however large
        values = frame[column].to_numpy(float)
        if not np.isfinite(values).all() or (values % 1).any() or (column == "generation" and (values < 0).any()):
            raise UserError(
                f"Column {column} holds {values[(values % 1 != 0) | (values < 0)][:1]}: give whole numbers."
            )
        frame[column] = values.astype(int)
    if (frame["generation"] > 0).all():
        raise UserError(
            "The table has no generation 0, the model trained on real data alone, from which growth is counted: number "
            "generations from 0."
        )
    if "size" in frame and not (frame["size"].isna() | ((frame["size"] > 0) & np.isfinite(frame["size"]))).all():
        raise UserError(
            "Column size holds what is no number of real samples: give numbers above 0, empty where unknown."
        )
    there = sorted(frame["generation"].unique())
    if there != list(range(len(there))):
        told = ", ".join(map(str, there[:4])) + (", ..." if len(there) > 4 else "")
        raise UserError(f"The table has generations {told}: number them 0, 1, 2, ... without gaps.")
    frame["condition"] = frame["condition"].astype(str)
    return frame


def doubtful(known: list[Condition]) -> list[str]:
    """Measures with values that they cannot have, a sentence each: noise may go a little below 0, percent do not."""
    told = []
    for measure in (*RATES, *RATIOS.values()):
        values = np.concatenate([c.frame[measure].to_numpy(float) for c in known if c.has(measure)] or [np.zeros(0)])
        values = values[np.isfinite(values)]
        if measure in RATES and (values > 1).any():
            told.append(f"{measure} goes up to {values.max():.3g}: rates are shares from 0 to 1, not percent.")
        elif (values < 0).any():
            told.append(f"{measure} goes down to {values.min():.3g}, and is a share or ratio from 0 up.")
    return told


# -- Controls ---------------------------------------------------------------------------------------------------------


def settings(base: str) -> tuple[str, frozenset[str]]:
    """A condition's rule, and those of its settings that a control shares."""
    rule, values = parts(base)
    return rule, frozenset(f"{key}={value}" for key, value in values.items() if key not in MIXING_ONLY)


def parts(name: str) -> tuple[str, dict[str, str]]:
    """The rule and the settings that a condition's name tells, a list's values with commas between them; of somebody
    else's name, with commas in it, the name alone."""
    rule, *rest = name.split(",")
    values: dict[str, str] = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if equals:
            values[key] = value
        elif values:  # of a list
            values[next(reversed(values))] += f",{part}"
        else:
            return name, {}
    return rule, values


def overrides(name: str, **more) -> str | None:
    """The words of a command line that makes a condition of this name with more settings (`n_initial`); None for a
    name that is no paradigm's, or that does not tell its settings whole: they end in a hash."""
    from imgloop.config.settings import CONF

    rule, values = parts(name)
    if not (CONF / "paradigm" / f"{rule}.yaml").is_file() or re.search(r"-[0-9a-f]{6,8}(,|$)", name):
        return None
    words = [f"paradigm={rule}"]
    for key, value in (values | more).items():
        if schedule := re.fullmatch(r"([\d.e+-]+)x([\d.e+-]+?)(?:max([\d.e+-]+))?", str(value)):
            pairs = zip(("start", "factor", "max"), schedule.groups())
            value = "{" + ",".join(f"{k}:{v}" for k, v in pairs if v is not None) + "}"
        words.append(shlex.quote(f"{key}=[{value}]" if "," in str(value) and not schedule else f"{key}={value}"))
    return " ".join(words)


def same_size(a: float, b: float) -> bool:
    return (np.isnan(a) and np.isnan(b)) or a == b


def control_of(condition: Condition, known: list[Condition], control: str) -> tuple[Condition | None, str]:
    """The control of a condition: trained on as many real samples with the same settings; and a remark, or why there is
    none."""
    named = control != settings(control)[0]  # the very condition that the user names

    def fits(c: Condition) -> bool:  # a name stands for a condition whose size is not known, too
        unknown = np.isnan(c.size) or (named and np.isnan(condition.size))
        return same_size(c.size, condition.size) or (control == c.given and unknown)

    exact = [c for c in known if control in (c.base, c.name, c.given) and fits(c)]
    own = settings(condition.base)[1]
    alike = [
        c
        for c in known
        if settings(c.base) == (settings(control)[0], own) and same_size(c.size, condition.size) and c is not condition
    ]
    if alike and not (named and exact):
        several = [c.name for c in alike]
        if len(several) > 1 and control not in several:
            return None, f"{' and '.join(several)} could each be its control: name one with control="
        return next((c for c in alike if c.name == control), alike[0]), ""
    if exact:
        other = sorted(own ^ settings(exact[0].base)[1])
        trained = [s for s in other if s.split("=")[0].split(".")[0] in ("data", "model")]
        if not trained or named:
            told = [f"not at {', '.join(other)}"] if other else []
            if not same_size(exact[0].size, condition.size):
                told.append("one of the two does not tell its number of real samples")
            return exact[0], f"{exact[0].name} is its control, though {' and '.join(told)}" if told else ""
        name = ",".join([settings(control)[0], *sorted(own)])
        words = overrides(name)
        return None, f"no control at {', '.join(trained)}: run {words if words else name}"
    size = "" if np.isnan(condition.size) else f" trained on {condition.size:g} real samples"
    return None, f"no chain of {control}{size}"


def quarter_of(control: Condition, known: list[Condition], quarter: str | None) -> tuple[Condition | None, str]:
    """The real-only condition that trains on a quarter of the control's real samples; or why there is none."""
    if quarter is not None:
        named = [c for c in known if c.name == quarter]
        if not named:
            raise UserError(f"quarter={quarter}: the table has no such condition; it has {listed(known)}.")
        return named[0], ""
    if np.isnan(control.size):
        return None, "no real-only model trained on a quarter of the data: name its condition with quarter="
    near = [c for c in known if c.base == control.base and abs(4 * c.size - control.size) < 4]
    if not near:
        own = parts(control.given)[1]
        knob = "data.n" if "data.n" in own and "n_initial" not in own else "n_initial"
        words = overrides(control.given, **{knob: int(control.size // 4)})
        run = f": run {words}, with the same data, model and seeds" if words else ""
        return None, f"no {control.base} trained on a quarter of the {control.size:g} real samples{run}"
    return near[0], ""


def listed(known: list[Condition], most: int = 12) -> str:
    names = list(dict.fromkeys(c.name for c in known))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# -- Where tables come from -------------------------------------------------------------------------------------------


def read(path: str | Path, told: Callable[[str], None] | None = None):
    """The plain table of a study's folder or of a CSV file, as pandas; raises UserError where `path` is neither.

    In a study of solvable systems each replicate is a chain. Chains that cannot be read are left out where `told` is
    there to hear of them, a sentence each; else the first of them raises UserError.
    """
    import pandas as pd

    from imgloop.study import tables as study
    from imgloop.study.study import Study

    path = Path(path)
    if path.is_dir():
        found = study.chains(path)
        if found and all(map(study.is_solved, found)):
            return systems(path)
        opened = Study(path, tolerant=told is not None)
        for fault in opened.damaged:
            told(fault)
        return opened.table
    try:
        return pd.read_csv(path)
    except FileNotFoundError as e:
        raise UserError(f"{path} does not exist: give a study's folder or a CSV file.") from e
    except (OSError, ValueError) as e:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path} cannot be read as a CSV table ({' '.join(str(e).split())}).") from e


def systems(path: str | Path):
    """A study of solvable systems as a plain table, one row a replicate and generation: its quantities as measures.

    Chains that were absorbed are carried on to the study's last generation, since they stay as they are.
    """
    import pandas as pd

    from imgloop.study import solved as results
    from imgloop.study import tables as study

    frames, found = [], study.chains(path)
    longest = max(results.record(c)["generations"] for c in found)
    for chain in found:
        record, metrics = results.record(chain), study.table(chain)
        values = results.replicates(chain)
        if record["absorbed"]:
            values = {k: v[np.minimum(np.arange(longest), len(v) - 1)] for k, v in values.items()}
        generations, replicates = next(iter(values.values())).shape
        measures = {name: next((q for q in sources if q in values), None) for name, sources in SYSTEMS.items()}
        measures |= {m: m for m in MEASURES if m in values and m not in RISKS and measures.get(m) is None}
        columns = {m: np.asarray(values[q], float).T.ravel() for m, q in measures.items() if q}
        columns |= {q: np.asarray(values[q], float).T.ravel() for q in ("mean_part", "covariance_part") if q in values}
        frames.append(
            pd.DataFrame(
                {
                    "condition": record["condition"],
                    "seed": np.repeat(int(chain.name[4:]) * APART + np.arange(replicates), generations),
                    "generation": np.tile(np.arange(generations), replicates),
                    "n_train": np.tile(metrics["n_train"].reindex(range(generations)).ffill(), replicates),
                    **columns,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)
