"""A study as data: its chains' metrics as one table, and the comparison of its conditions; it runs no code."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from imgloop import store
from imgloop.errors import UserError

SCORES = (  # what an evaluator measures, by column name
    "fd",
    "kd",
    "kd_sem",
    "precision",
    "recall",
    "density",
    "coverage",
    "modes_covered",
    "modes_present",
    "mode_kl",
    "mode_share_min",
    "variance_ratio",
    "effective_rank",
    "vendi",
    "tail_mass",
    "off_support",
    "ambiguity",
    "authenticity",
    "rule_violations",
    "risk",
    "tail_risk",
)
SIZES = ("generation", "n_train", "n_pool", "real_share")
COLUMNS = (*SIZES, *SCORES, "seconds_train", "seconds_sample", "seconds_measure", "protocol")
HEADLINE = (
    "fd",
    "kd",
    "precision",
    "recall",
    "modes_covered",
    "mode_kl",
    "variance_ratio",
    "tail_mass",
    "off_support",
    "authenticity",
    "rule_violations",
    "risk",
    "tail_risk",
)  # of the comparison table


def is_table(chain: Path) -> bool:
    """Whether the chain is that of a solvable system: one table of replicate by generation."""
    return (Path(chain) / "record.json").exists()


def generations(chain: Path) -> list[Path]:
    """The chain's generation folders in order."""
    return sorted(p for p in Path(chain).glob("gen[0-9]*") if p.is_dir())


def row(folder: Path, protocol: str | None) -> dict[str, Any]:
    """One generation's row of metrics.csv, its scores by `protocol` (a file name in scores/), empty where not
    measured."""
    record = store.read_json(folder / "record.json")
    found = {c: record.get(c) for c in SIZES}
    found |= {f"seconds_{s}": record["seconds"].get(s) for s in ("train", "sample", "measure")}
    path = folder / "scores" / f"{protocol}.json"
    if protocol is not None and path.exists():
        found |= {**store.read_json(path)["scores"], "protocol": protocol}
    return found


def protocols(chain: Path) -> list[str]:
    """The protocols under which the chain's generations have scores, the most recently written last."""
    newest: dict[str, float] = {}
    for path in Path(chain).glob("gen[0-9]*/scores/*.json"):
        newest[path.stem] = max(newest.get(path.stem, 0.0), path.stat().st_mtime)
    return sorted(newest, key=newest.get)


def table(chain: Path, protocol: str | None = None):
    """The chain's metrics, one row a generation, as a pandas table; by default under its newest protocol."""
    import pandas as pd

    if is_table(chain):
        from imgloop.study import solved as results

        return pd.read_csv(results.intact(chain, "metrics"))
    names = protocols(chain)
    protocol = protocol or (names[-1] if names else None)
    frame = pd.DataFrame([row(g, protocol) for g in generations(chain)], columns=list(COLUMNS))
    return frame[[c for c in COLUMNS if c in SIZES or frame[c].notna().any()]]


def write_metrics(chain: Path, protocol: str | None = None):
    """metrics.csv, evolution.png and curves.png of one chain, from what its generation folders hold; returns the
    table."""
    from imgloop import figures

    chain = Path(chain)
    frame = table(chain, protocol)
    store.write_text(chain / "metrics.csv", csv(frame))
    aged = [(int(g.name[3:]), store.open_arrays(g / "evolution.safetensors")["x"]) for g in generations(chain)]
    title = f"{chain.parent.name}, {chain.name}"
    store.write_bytes(chain / "evolution.png", figures.evolution(aged, title))
    store.write_bytes(
        chain / "curves.png",
        figures.curves(frame.assign(condition=chain.parent.name), title, reference(chain.parent.parent, frame)),
    )
    return frame


def csv(frame) -> str:
    """A table as CSV with six significant digits; whole numbers stay whole, and missing values empty."""
    out = io.StringIO()
    frame.convert_dtypes(convert_floating=False).to_csv(out, index=False, float_format="%.6g")
    return out.getvalue()


def reference(study: Path, frame) -> dict[str, Any] | None:
    """Real-against-real values by measure, of the table's one protocol; the newest, where versions left several."""
    shown = set(frame["protocol"].dropna()) if "protocol" in frame else set()
    paths = (Path(study) / "shared").glob("reference-*/reference.json")
    found = [store.read_json(p) for p in sorted(paths, key=lambda p: p.stat().st_mtime)]
    return next((r for r in reversed(found) if {r.get("protocol")} == shown), None)


def finish(chain, display):
    """At a chain's end: its files, the study's comparison, and the last line, which says where to look."""
    if is_table(chain.folder):
        from imgloop.study import solved as results

        return results.finish(chain, display)
    changed = chain.protocol is not None or not (chain.folder / "metrics.csv").exists()
    frame = write_metrics(chain.folder, chain.protocol) if changed else table(chain.folder)
    several = len(chains(chain.study)) > 1
    if several and (changed or not (chain.study / "comparison.png").exists()):
        compare(chain.study)
    display.say(
        f"look at {chain.folder}: grid.png of each generation, evolution.png, curves.png, metrics.csv"
        + (f"; and at {chain.study / 'comparison.png'}" if several else "")
    )
    return frame


def chains(study: Path) -> list[Path]:
    """The study's chain folders that hold at least one generation, by condition and seed."""
    named = [p for p in Path(study).glob("*/seed*") if p.name[4:].isdecimal() and p.parent.name != "shared"]
    return sorted((p for p in named if generations(p) or is_table(p)), key=lambda p: (p.parent.name, int(p.name[4:])))


def common_protocol(folders: list[Path]) -> str | None:
    """The protocol under which most of the chains in `folders` have scores, of equals the newest."""
    have = [protocols(c) for c in folders if not is_table(c)]
    names = [p for some in have for p in some]
    return max(names, key=lambda n: (names.count(n), sum(some[-1] == n for some in have if some)), default=None)


def joined(folders: list[Path], protocol: str | None):
    """The chains in `folders` as one pandas table: condition, seed, and the columns of metrics.csv."""
    import pandas as pd

    frames = [table(c, protocol).assign(condition=c.parent.name, seed=int(c.name[4:])) for c in folders]
    frame = pd.concat(frames, ignore_index=True)
    first = ["condition", "seed", *[c for c in COLUMNS if c in frame]]
    return frame[first + [c for c in frame if c not in first]]


def load_study(path: str | Path, protocol: str | None = None):
    """Every chain of a study as one pandas table: condition, seed, and the columns of metrics.csv, one row a
    generation; `imgloop.Study(path)` has its images as well.

    All scores are of one `protocol` (a file name in scores/, without its ending): by default the one that most chains
    have, of equals the newest. Raises UserError where `path` holds no chain. Only data are read: nothing that a run
    folder names is run.
    """
    path = Path(path)
    found = chains(path)
    if not found:
        raise UserError(
            f"{path} holds no chain (CONDITION/seedK): give a study's folder, for example outputs/digits-diffusion."
        )
    return joined(found, protocol or common_protocol(found))


def compare(study: Path) -> None:
    """Write comparison.csv (mean and sd over seeds a condition and generation) and comparison.png."""
    from imgloop import figures

    study = Path(study)
    if any(map(is_table, chains(study))):
        from imgloop.study import solved as results

        return results.compare(study)
    with store.lock(study / "shared" / ".comparison.lock"):
        frame = load_study(study)
        grouped = frame.groupby(["condition", "generation"], sort=False)
        result = grouped.size().rename("seeds").to_frame()
        if "n_pool" in frame:
            result["n_pool"] = grouped["n_pool"].max()
        for c in HEADLINE:
            if c in frame and frame[c].notna().any():
                result[c], result[f"{c}_sd"] = grouped[c].mean(), grouped[c].std(ddof=1)
        result = result.reset_index().sort_values(["condition", "generation"], kind="stable")
        store.write_text(study / "comparison.csv", csv(result))
        seeds = int(frame.groupby("condition")["seed"].nunique().max())
        spread = f"mean of {seeds} seeds, band of one standard deviation" if seeds > 1 else "one seed"
        title = f"{study.name}: {spread}{'; ' + told if (told := sizes_differ(frame)) else ''}"
        store.write_bytes(study / "comparison.png", figures.curves(frame, title, reference(study, frame)))


def sizes_differ(frame) -> str:
    """A warning where measures of different numbers of samples stand side by side, else nothing: the protocol is the
    same but for that number, and Frechet distance and coverage depend on it."""
    sizes = sorted({int(n) for n in frame["n_pool"].dropna()}) if "n_pool" in frame else []
    if len(sizes) < 2:
        return ""
    return f"{sizes[0]:,} to {sizes[-1]:,} samples: fd falls with their number"


def spread(study: Path) -> str:
    """What the ± of a study's comparison is."""
    tables = any(map(is_table, chains(study)))
    return "standard error; compared while it can be" if tables else "standard deviation over seeds"


def comparison_lines(study: Path) -> list[str]:
    """The last generation of each condition, as lines to print."""
    import pandas as pd

    if any(map(is_table, chains(study))):
        from imgloop.study import solved as results

        return results.comparison_lines(study)
    result = pd.read_csv(Path(study) / "comparison.csv")
    shown = [c for c in ("fd", "precision", "recall", "modes_covered", "variance_ratio", "risk") if c in result]
    width = max(len(c) for c in result["condition"])
    lines = [f"{'condition':<{width}}  gen  seeds  " + "  ".join(f"{c:>15}" for c in shown)]
    for condition, part in result.groupby("condition"):
        last = part.iloc[-1]
        cells = [f"{last[c]:.3g}" + (f" ± {last[c + '_sd']:.2g}" if pd.notna(last[f"{c}_sd"]) else "") for c in shown]
        lines.append(
            f"{condition:<{width}}  {int(last['generation']):>3}  {int(last['seeds']):>5}  "
            + "  ".join(f"{c:>15}" for c in cells)
        )
    if told := sizes_differ(result):
        lines.append(told)
    return lines
