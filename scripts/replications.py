"""python scripts/replications.py [NAME ...] [--out outputs]: the tables of docs/replications.md from finished studies.

With --cost: what each trained set-up costs, by the rates of imgloop.plan and docs/performance.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markdown_table import header, row

import imgloop
from imgloop.collapse import statistics, tables
from imgloop.collapse.profile import collapse_profile
from imgloop.collapse.verdicts import DETECTED, EXCLUDED
from imgloop.conditions import short_names
from imgloop.config.compose import options
from imgloop.plan import devices
from imgloop.plan.chains import jobs, settings_of
from imgloop.study import plain, solved
from imgloop.study.progress import incomplete, progress
from imgloop.study.tables import chains, load_study

NAMES = sorted(o.removeprefix("published/") for o in options("experiment") if o.startswith("published/"))


@dataclass(frozen=True)
class Setup:
    """What is read of a trained set-up. measures: columns of metrics.csv, or `reward`. reference: the settings by which
    the condition that each one is compared with differs from it; None: a setting that it does not have."""

    measures: tuple[str, ...]
    reference: Mapping[str, str | None]

    def compared_with(self, condition: str, conditions: Sequence[str]) -> str | None:
        """The condition, among those of the study, that a condition is compared with; None for a reference itself."""
        paradigm, values = tables.parts(condition)
        changed = {**values, **self.reference}
        paradigm = changed.pop("paradigm", paradigm)
        wanted = str(paradigm), {k: v for k, v in changed.items() if v is not None}
        return next((c for c in conditions if c != condition and tables.parts(c) == wanted), None)


CONTROL = {"paradigm": "real_only"}
SETUPS = {
    "alemohammad": Setup(("fd", "precision", "recall"), CONTROL),
    "bertrand": Setup(("fd", "recall", "risk"), CONTROL),
    "gillman": Setup(("fd", "variance_ratio", "risk"), {"correction": None}),
    "ferbach": Setup(("ambiguity", "mode_kl", "variance_ratio", "fd"), {"curation.scale": "0"}),
    "gerstgrasser": Setup(("risk", "fd"), CONTROL),
    "kazdan": Setup(("risk", "fd"), CONTROL),
    "shi": Setup(("fd", "risk", "generalisation", "mix_entropy"), {"curation": None}),
}
# Of solvable systems: the quantities of the table; none where it is one of times to total collapse.
SYSTEMS = {
    "kazdan/gaussian": ("mean_part", "variance", "log_variance"),
    "kazdan/kde": ("mean_part", "variance"),
    "schaeffer": (),
}


def study_of(name: str, out: Path) -> Path:
    """The folder of a set-up's study."""
    return out / f"published-{name.replace('/', '-')}"


def lacking(name: str, study: Path) -> str:
    """The conditions of a set-up that its study does not have at all, in a sentence; "" if it has all."""
    chosen = settings_of(jobs([f"experiment=published/{name}"], (), True)[0], ())
    there = {c.parent.name for c in chains(study)}
    missing = [c for c in dict.fromkeys(s.condition for s in chosen.values()) if c not in there]
    return f"not run: {', '.join(missing)}" if missing else ""


def trained(study: Path, setup: Setup) -> Iterator[str]:
    """A Markdown table of a trained set-up's study: means over seeds and their standard errors at the last generation
    that all chains have, differences paired by seed with 95 % t intervals, and verdicts."""
    frame: Any = load_study(study)
    last = int(frame.groupby(["condition", "seed"])["generation"].max().min())
    at = frame[frame["generation"] == last].set_index(["condition", "seed"])
    measures = [m for m in setup.measures if m in at]
    conditions = list(dict.fromkeys(frame["condition"]))
    names, common = short_names(conditions)
    judged = verdicts(study)
    yield f"Generation {last}" + (f"; all with {', '.join(common)}" if common else "") + "."
    yield ""
    yield from header("condition", "seeds", "compared with", *measures, *(["verdicts"] if judged else []))
    for condition in conditions:
        other = setup.compared_with(condition, conditions)
        cells = [value(at.loc[condition, m], None if other is None else at.loc[other, m]) for m in measures]
        cells += [judged.get(condition, "")] if judged else []
        yield row(names[condition], len(at.loc[condition]), "" if other is None else names[other], *cells)


def value(mine: Any, theirs: Any) -> str:
    """Mean ± standard error over seeds (pandas series by seed), and the mean difference with its 95 % t interval."""
    moments = statistics.Moments.of(mine.to_numpy(float))
    text = f"{moments.mean:.3g}" + (f" ± {moments.sem:.2g}" if np.isfinite(moments.sem) else "")
    if theirs is None:
        return text
    mean, low, high = statistics.interval((mine - theirs).dropna().to_numpy(float))
    return f"{text}; {mean:+.3g}" + (f" [{low:+.3g}, {high:+.3g}]" if np.isfinite(low) else "")


def verdicts(study: Path) -> dict[str, str]:
    """For each condition the definitions that are detected and excluded; empty without a control, or with it alone."""
    from imgloop.study.frozen import frozen

    table = plain.read_table(study)
    controls = {tables.parts(str(c))[0] == "real_only" for c in table["condition"].unique()}
    if controls != {True, False}:
        return {}
    profile = collapse_profile(table, frozen=frozen(study))
    shown = {}
    for condition in profile.conditions:
        found = {w: [str(k) for k, v in profile[condition].items() if v.verdict == w] for w in (DETECTED, EXCLUDED)}
        shown[condition] = "; ".join(f"{', '.join(ks)} {w}" for w, ks in found.items() if ks) or "none"
    return shown


def solvable(study: Path, quantities: Sequence[str]) -> Iterator[str]:
    """A Markdown table of a solvable set-up's study: simulated means ± standard errors and theory at the last
    generation, or times to total collapse; then the largest deviation from theory of all generations."""
    if not quantities:
        yield from timescales(study)
        return
    frame = solved.pooled(load_study(study))
    judged = verdicts(study)
    yield from header("condition", *(f"{q} (theory)" for q in quantities), *(["verdicts"] if judged else []))
    largest = []
    for condition, part in frame.groupby("condition", sort=False):
        last, cells = part.iloc[-1], []
        for q in quantities:
            theory, z = last[f"{q}_theory"], part[f"{q}_z"]
            closed = f" ({theory:.3g})" if np.isfinite(theory) else ""
            cells.append(f"{last[q]:.3g} ± {last[f'{q}_sem']:.2g}{closed}")
            if z.notna().any():
                at = z.abs().idxmax()
                largest.append((abs(z[at]), f"{z[at]:+.1f}, {q} of {condition} at generation {part['generation'][at]}"))
        yield row(condition, *cells, *([judged.get(str(condition), "")] if judged else []))
    yield ""
    yield (
        f"Generation {int(frame['generation'].max())}. Largest difference from theory in standard errors, of all "
        f"generations of {len(largest)} courses: {max(largest)[1]}."
    )


def timescales(study: Path) -> Iterator[str]:
    """A Markdown table of the times to total collapse of a discrete distribution."""
    yield from header(
        "draws D", "outcomes N", "simulated", "exact", "diffusion", "D ln N (paper)", "simulated over D ln N"
    )
    for r in solved.timescales(chains(study)):
        exact = "" if r["exact"] is None else f"{r['exact']:.4g}"
        simulated = f"{r['simulated']:.4g} ± {r['sem']:.2g}"
        ratio = f"{r['simulated'] / r['paper']:.2f}"
        yield row(r["draws"], r["outcomes"], simulated, exact, f"{r['diffusion']:.4g}", f"{r['paper']:.4g}", ratio)


# GPU sizes, whose model is that of experiment=study/cifar10 (docs/performance.md): operations of an image in training;
# an evaluation of the network is a third of it. Evaluations a sample; images a step; samples drawn at once.
TRAIN_FLOP, EVALUATIONS, BATCH, CHUNK = 23e9, 35, 512, 256
# CPU sizes, on an idle core: images trained a second (docs/performance.md); samples drawn a second at as many
# operations (python -m imgloop.plan counts 16.3 MFLOP a training image and 76 a sample); seconds for the rest of a
# generation.
TRAINED, DRAWN, REST = 3735, 800, 2
DIGITS = 1397  # training images, of which all are used where n_initial is not given


def work(name: str) -> tuple[int, int, int, int]:
    """Chains, generations, training images and samples of a trained set-up; a generation 0 that chains share counts
    once. Its data are not read."""
    chosen = settings_of(jobs([f"experiment=published/{name}"], (), True)[0], ())
    first, generations, images, samples = set[str](), 0, 0, 0
    for s in chosen.values():
        shared = f"{s.config['seed']} {s.config['model']} {s.config['n_initial']}"  # chains with one generation 0
        for t in range(s.config["generations"]):
            images += int(s.images(t)) if t or shared not in first else 0
            samples += int(s.n_samples(t)) if s.n_samples else s.config["n_initial"] or DIGITS
            generations += 1
        first.add(shared)
    return len(chosen), generations, images, samples


def cost(name: str) -> str:
    """A row of a Markdown table: the work of a trained set-up, and an estimate of its time: minutes of two idle cores,
    or hours of one H100 without measuring and start-up."""
    chains, generations, images, samples = work(name)
    if name.endswith("/gpu"):
        passes = EVALUATIONS * devices.PASS
        flop = TRAIN_FLOP * (images + samples * passes)
        time = f"{devices.seconds('h100', flop, images / BATCH + samples / CHUNK * passes) / 3600:,.0f} h"
    else:
        time = f"{(images / TRAINED + samples / DRAWN + generations * REST) / 2 / 60:.0f} min"
    return row(f"`published/{name}`", chains, generations, f"{images:,}", f"{samples:,}", time)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of experiment=published/NAME: {', '.join(NAMES)}")
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="folder of the studies (outputs)")
    parser.add_argument("--cost", action="store_true", help="print what the set-ups cost instead")
    a = parser.parse_args(arguments)
    for name in a.names:
        if name not in NAMES:
            parser.error(f"{name} is not a published set-up: choose from {', '.join(NAMES)}.")
    if a.cost:
        print("\n".join(header("set-up", "chains", "generations", "training images", "samples", "time")))
        for name in (n for n in a.names or NAMES if n not in SYSTEMS):
            print(cost(name), flush=True)
        return
    for name in a.names or NAMES:
        study = study_of(name, a.out)
        print(f"## published/{name}\n")
        try:
            if not study.is_dir() or not chains(study):
                print(f"not run yet: {study} has no chain\n")
                continue
            lines = trained(study, SETUPS[name.removesuffix("/gpu")]) if name not in SYSTEMS else None
            print("\n".join(lines or solvable(study, SYSTEMS[name])))
            for note in filter(None, (incomplete(progress(study)), lacking(name, study))):
                print(f"\n{note}")
        except imgloop.UserError as e:
            sys.exit(f"replications: {e}")
        print(flush=True)


if __name__ == "__main__":
    main()
