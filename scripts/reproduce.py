"""python scripts/reproduce.py [--out DIR] [--only NAME ...]: compare every analytic experiment with its theory, then
check that such comparisons detect deliberate faults of the loop. Exit status 1 if either fails."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import faults
import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser

import imgloop
from imgloop import loop
from imgloop.config.compose import CONF, compose
from imgloop.config.settings import parsed
from imgloop.display import duration
from imgloop.errors import Stopped
from imgloop.study import solved as results
from imgloop.study.generation import read_config

LIMIT = 4.0  # standard errors; theory and simulation disagree if they differ by more
EXPERIMENTS = sorted(p.stem for p in (CONF / "experiment" / "analytic").glob("*.yaml"))
MUTATIONS = "mutations"
PARTS = [*EXPERIMENTS, MUTATIONS]
BEGAN = time.monotonic()


# -- Simulation against theory ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """A quantity of one chain at the last generation that can be compared, and its z with the largest |z| over
    all generations.

    `z` is NaN if no generation can be compared. `approximate` theory is printed but not judged.
    """

    quantity: str
    generation: int
    simulated: float
    sem: float
    theory: float
    z: float
    at: int  # the generation of z
    bound: bool = False
    approximate: bool = False

    @property
    def agrees(self) -> bool:
        return self.approximate or abs(self.z) < LIMIT


def comparisons(result: loop.Result) -> list[Comparison]:
    """Every quantity of a finished chain that has theory or a bound, and the time to total collapse if it occurred."""
    record = results.record(result.folder)
    compared = []
    for name, quantity in record["quantities"].items():
        bound = quantity["kind"] == "bound"
        theory = result.metrics.get(f"{name}_bound" if bound else f"{name}_theory")
        if theory is not None and theory[1:].notna().any() and not (bound and theory.min() >= 1):
            z = result.metrics.get(f"{name}_z", theory * np.nan)
            last = theory.last_valid_index() if z.isna().all() else z.last_valid_index()
            at = last if z.isna().all() else z.abs().idxmax()
            simulated, sem = result.metrics.loc[last, [name, f"{name}_sem"]]
            compared.append(Comparison(name, last, simulated, sem, theory[last], z[at], at, bound))
    return compared + echoes(result) + collapse_times(record["timescale"], record["generations"] - 1)


def echoes(result: loop.Result) -> list[Comparison]:
    """For chains of means beside new real rows: what is left of the error of generation s in the last generation, as
    the slope of its mean on that of s over replicates, against the product of the synthetic shares between.

    docs/theory.md, "How long an error lasts".
    """
    stored, mean = read_config(result.folder), results.replicates(result.folder).get("mean")
    if mean is None or stored["choices"]["paradigm"] != "fresh" or stored["config"]["real_weight"] is not None:
        return []
    kept, last, rows = 1 - result.metrics["real_share"].to_numpy(), len(mean) - 1, []
    for lag in range(1, min(last, 4) + 1):
        then, now = mean[last - lag], mean[last]
        slope = (then @ now) / (then @ then)
        sem = np.sqrt(((now - slope * then) ** 2).mean() / (then @ then))
        theory = float(kept[last - lag + 1 :].prod())
        rows.append(Comparison(f"echo_{lag}", last, slope, sem, theory, (slope - theory) / sem, last))
    return rows


def collapse_times(timescale: dict | None, last: int) -> list[Comparison]:
    """The simulated time to total collapse against the exact expectation, if known, and the diffusion approximation."""
    if timescale is None:
        return []
    simulated, sem, exact = timescale["simulated"], timescale["sem"] or np.nan, timescale["exact"]
    rows = []
    if exact is not None:
        rows.append(Comparison("collapse_time", last, simulated, sem, exact, (simulated - exact) / sem, last))
    diffusion = timescale["diffusion"]
    return [*rows, Comparison("collapse_diffusion", last, simulated, sem, diffusion, np.nan, last, approximate=True)]


def conditions(experiment: str) -> list[list[str]]:
    """The overrides of each chain that an experiment's sweep runs."""
    swept = compose([f"experiment=analytic/{experiment}"]).hydra.sweeper.params or {}
    parser = OverridesParser.create()
    axes = []
    for o in parser.parse_overrides([f"{key}={value}" for key, value in swept.items()]):
        values = o.sweep_string_iterator() if o.is_sweep_override() else [o.get_value_element_as_str()]
        axes.append([f"{o.get_key_element()}={value}" for value in values])
    return [list(overrides) for overrides in product(*axes)]


# -- Deliberate faults ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exposure:
    """The largest z of a quantity in a correct chain, and in the same chain with a fault."""

    quantity: str
    before: float
    after: float

    @property
    def caught(self) -> bool:
        return abs(self.before) < LIMIT < abs(self.after)


def exposures(twin: faults.Twin) -> Iterator[Exposure]:
    """Run a twin's chain without and with its fault, in a temporary folder."""
    with TemporaryDirectory() as out:
        settings = parsed([*twin.chain.split(), f"out={out}", "overwrite=true", "display=none"])
        before = {c.quantity: c.z for c in comparisons(loop.run(settings))}
        with twin.fault():
            after = {c.quantity: c.z for c in comparisons(loop.run(settings))}
    for quantity in twin.quantities.split():
        yield Exposure(quantity, before.get(quantity, np.nan), after.get(quantity, np.nan))


# -- Lines to print ---------------------------------------------------------------------------------------------------


def compare(experiments: list[str], out: Path) -> Iterator[bool]:
    """Run experiments and print a line for each comparison; yield whether it agrees."""
    chains = [(e, c) for e in experiments for c in conditions(e)]
    wide, broad = max(len(e) for e, _ in chains), max(len(" ".join(c)) for _, c in chains)
    head = f"{'experiment':<{wide}}  {'condition':<{broad}}"
    print(f"{head}  {'quantity':<18}   gen  {'simulated':>20}  {'theory':>10}  {'largest z':>13}  verdict")
    for experiment, condition in chains:
        label = f"{experiment:<{wide}}  {' '.join(condition):<{broad}}"
        progress(label)
        result = imgloop.run([f"experiment=analytic/{experiment}", *condition, f"out={out}", "display=none"])
        rows = comparisons(result)
        if not rows:
            print(f"{label}  no closed form", flush=True)
        for c in rows:
            simulated, theory = f"{c.simulated:.4g} ± {c.sem:.2g}", ("<= " if c.bound else "") + f"{c.theory:.4g}"
            z = "" if c.approximate else "none" if np.isnan(c.z) else f"{c.z:+.2f} at {c.at:>3}"
            verdict = "approximation" if c.approximate else "ok" if c.agrees else "FAILED"
            values = f"{c.quantity:<18}  {c.generation:>4}  {simulated:>20}  {theory:>10}  {z:>13}"
            print(f"{label}  {values}  {verdict}", flush=True)
            if not c.approximate:
                yield c.agrees


def expose(twins: Sequence[faults.Twin]) -> Iterator[bool]:
    """Run twins and print a line for each quantity; yield whether the fault was detected."""
    wide, broad = (max(len(getattr(t, name)) for t in twins) for name in ("name", "oracle"))
    print(f"{'fault':<{wide}}  {'oracle':<{broad}}  {'quantity':<18}   z before    z after  verdict")
    for twin in twins:
        label = f"{twin.name:<{wide}}  {twin.oracle:<{broad}}"
        progress(label)
        for e in exposures(twin):
            verdict = "caught" if e.caught else "MISSED" if abs(e.before) < LIMIT else "FAILED before"
            print(f"{label}  {e.quantity:<18}  {e.before:>+9.2f}  {e.after:>+9.3g}  {verdict}", flush=True)
            yield e.caught


def progress(text: str) -> None:
    print(f"[{time.monotonic() - BEGAN:4.0f} s] {text.strip()}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the experiments' chains (default: temporary)")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=PARTS, default=PARTS, help=f"some of {', '.join(PARTS)}"
    )
    a = parser.parse_args(arguments)
    agree, caught = [], []
    experiments = [name for name in a.only if name != MUTATIONS]
    try:
        if experiments:
            with nullcontext(a.out) if a.out else TemporaryDirectory() as out:
                agree = list(compare(experiments, out))
        if MUTATIONS in a.only:
            print(end="\n" if experiments else "")
            caught = list(expose(faults.TWINS))
    except (imgloop.UserError, Stopped) as e:
        sys.exit(f"reproduce: {e}")
    print(
        f"\n{len(agree)} comparisons with theory, {agree.count(False)} failed; {len(caught)} with a fault, "
        f"{caught.count(False)} not caught; {duration(time.monotonic() - BEGAN)}"
    )
    return 0 if all(agree + caught) else 1


if __name__ == "__main__":
    sys.exit(main())
