"""What a report leaves on disk: report.html, and in report/ the profile as JSON, CSV and LaTeX, figures and BibTeX."""

from __future__ import annotations

import json
import math
import unicodedata
from pathlib import Path

from imgloop import store
from imgloop.collapse.definitions import SHORT
from imgloop.collapse.verdicts import Profile
from imgloop.report import page, pdf
from imgloop.report.page import Report
from imgloop.report.text import digits
from imgloop.study import tables as study

# Brackets and stars are braced: at the head of a row they would be options of the line end before it.
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$",
    "[": "{[}", "]": "{]}", "*": "{*}", '"': "''",
}  # fmt: skip
ACCENTS = dict(zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327", "`'^~=u.\"rHvc"))
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
            store.write_text(beside / "profile.csv", study.csv_text(r.profile.to_frame()))
            store.write_text(beside / "profile.tex", latex(r.profile, r.names))
        drawn = dict(pdf.figures(r.panels, r.ages, [(r.names[c], b) for c, b in page.shares(r.study, r.names)]))
        for name, data in drawn.items():
            store.write_bytes(beside / "figures" / name, data)
        store.remove(*(p for p in (beside / "figures").glob("*.pdf") if p.name not in drawn))
    return path


def as_json(r: Report) -> dict:
    """The profile (None, with the reason, where there is none), timescales and what is not known."""
    known = not isinstance(r.profile, str)
    times = [
        {
            "condition": t.condition,
            "measure": t.measure,
            "change": t.change,
            "told": t.said,
            **{k: getattr(t, k) if math.isfinite(getattr(t, k)) else None for k in ("at", "low", "high")},
            "chains": t.chains,
            "generations": t.last,
            "seen": t.seen,
            "significant": t.significant,
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
    """Text as LaTeX prints it, in ASCII, on one line: accents as its macros, other letters by their code point."""
    found = []
    for c in unicodedata.normalize("NFD", " ".join(text.split())):
        if c in ACCENTS and found:
            found[-1] = f"\\{ACCENTS[c]}{{{found[-1]}}}"
        else:
            found.append(LATEX.get(c, c) if c.isascii() and c.isprintable() else f"U+{ord(c):04X}")
    return "".join(found)


def formula(x) -> str:
    """A measured number as LaTeX prints it."""
    said, power = digits(x)
    times = rf"\times10^{{{power}}}" if power else ""
    return f"${said.replace('inf', chr(92) + 'infty').replace(',', '{,}')}{times}$" if said else ""


def latex(profile: Profile, names) -> str:
    """The profile as a LaTeX table (package booktabs), in ASCII: a row a condition, a column a definition."""
    heads = " & ".join(["condition", *(f"{k}. {escaped(title)}" for k, title in SHORT.items())])
    rows = []
    for condition in profile.conditions:
        cells = [escaped(names.get(condition, condition))]
        for v in profile[condition].values():
            mark = SYMBOLS.get(v.verdict, "--")
            cells.append(f"{mark} {formula(v.effect)}".strip())
        rows.append(" & ".join(cells) + r" \\")
    columns = "l" + "l" * len(SHORT)
    seeds = max((v.seeds for v in profile.verdicts), default=0)
    control = " ".join(profile.control.split()).encode("ascii", "backslashreplace").decode()  # in a comment
    return "\n".join(
        [
            f"% {SYMBOLS['detected']} detected, {SYMBOLS['excluded']} excluded, ? undetermined, -- not measured;",
            f"% beside it the effect over {control}, of up to {seeds} chains; needs booktabs",
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
