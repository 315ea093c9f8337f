"""What a report leaves on disk: report.html, and in report/ the profile as JSON, CSV and LaTeX, figures and BibTeX."""

from __future__ import annotations

import json
from pathlib import Path

from imgloop import store, study
from imgloop.collapse.definitions import SHORT
from imgloop.collapse.verdicts import Profile
from imgloop.report import page, pdf
from imgloop.report.page import Report
from imgloop.report.text import MINUS, figure

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", MINUS: "$-$", "<": "$<$", ">": "$>$",
}  # fmt: skip
SYMBOLS = {"detected": r"$\bullet$", "excluded": r"$\circ$", "undetermined": "?"}


def write(r: Report, out: Path | None = None, refresh: int | None = None, whole: bool = True) -> Path:
    """Write a report into the study's folder (a CSV table's: beside it, NAME-report/), or into `out`; returns the path
    of report.html. `whole` False leaves the files beside the page as they are. Raises UserError where it cannot write.
    """
    folder = out or (r.study.path.with_name(f"{r.study.path.stem}-report") if r.study.is_csv else r.study.path)
    path = folder / "report.html"
    store.write_text(path, page.html(r, refresh))
    if whole:
        beside = folder / page.BESIDE
        store.write_text(beside / "profile.json", json.dumps(as_json(r), indent=1, allow_nan=False) + "\n")
        store.write_text(beside / "references.bib", "\n".join(w.bibtex for w in r.works))
        if isinstance(r.profile, str):
            store.remove(beside / "profile.csv", beside / "profile.tex")
        else:
            store.write_text(beside / "profile.csv", study.csv(r.profile.to_frame()))
            store.write_text(beside / "profile.tex", latex(r.profile, r.names))
        drawn = dict(pdf.figures(r.panels, r.ages, [(r.names[c], b) for c, b in page.shares(r.study, r.names)]))
        for name, data in drawn.items():
            store.write_bytes(beside / "figures" / name, data)
        store.remove(*(p for p in (beside / "figures").glob("*.pdf") if p.name not in drawn))
    return path


def as_json(r: Report) -> dict:
    """The profile (None, with the reason, where there is none), timescales and what is not known."""
    known = not isinstance(r.profile, str)
    finite = {True: lambda x: x, False: lambda x: None}
    times = [
        {
            "condition": t.condition,
            "measure": t.measure,
            "change": t.change,
            **{
                k: finite[abs(v) != float("inf")](v)
                for k, v in (("median", t.median), ("low", t.low), ("high", t.high))
            },
            "chains": t.chains,
            "generations": t.last,
            "extrapolated": t.extrapolated,
        }
        for t in r.times
    ]
    return {
        "study": r.study.name,
        "profile": r.profile.to_dict() if known else None,
        "reason": None if known else r.profile,
        "timescales": times,
        "commands": {recipe.condition: recipe.command for recipe in r.origin.recipes},
        "not_known": list(r.unknown),
    }


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(LATEX.get(c, c) for c in text)


def latex(profile: Profile, names) -> str:
    """The profile as a LaTeX table (package booktabs): a row a condition, a column a definition."""
    heads = " & ".join(["condition", *(f"{k}. {escaped(title)}" for k, title in SHORT.items())])
    rows = []
    for condition in profile.conditions:
        cells = [escaped(names.get(condition, condition))]
        for v in profile[condition].values():
            mark = SYMBOLS.get(v.verdict, "--")
            cells.append(f"{mark} {escaped(figure(v.effect))}".strip())
        rows.append(" & ".join(cells) + r" \\")
    columns = "l" + "l" * len(SHORT)
    seeds = max((v.seeds for v in profile.verdicts), default=0)
    return "\n".join(
        [
            f"% {SYMBOLS['detected']} detected, {SYMBOLS['excluded']} excluded, ? undetermined, -- not measured;",
            f"% beside it the effect over {' '.join(profile.control.split())}, of up to {seeds} chains; needs booktabs",
            f"\\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            heads + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )
