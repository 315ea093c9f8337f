"""Writes a report: report.html, and in report/ the profile as JSON, CSV and LaTeX, the figures and BibTeX."""

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
from imgloop.study.imported import NOTE
from imgloop.study.tables import csv_text

# Brackets and stars are braced: at the start of a row they would be options of the preceding line end.
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$",
    "[": "{[}", "]": "{]}", "*": "{*}", '"': "''",
}  # fmt: skip
ACCENTS = dict(zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327", "`'^~=u.\"rHvc"))
SYMBOLS = {"detected": r"$\bullet$", "excluded": r"$\circ$", "undetermined": "?"}


def write(r: Report, out: Path | None = None, refresh: int | None = None, whole: bool = True) -> Path:
    """Write a report into the study's folder (for a CSV table: NAME-report/ beside it) or into `out`.

    whole: also the files beside the page. Returns the path of report.html; raises UserError where it cannot write.
    """
    folder = out or (r.study.path.with_name(f"{r.study.path.stem}-report") if r.study.is_csv else r.study.path)
    path, beside = folder / "report.html", folder / page.BESIDE
    store.remove_parts(folder, beside, beside / "figures")
    store.write_text(path, page.html(r, refresh))
    if whole:
        store.write_text(beside / "profile.json", json.dumps(as_json(r), indent=1, allow_nan=False) + "\n")
        store.write_text(beside / "references.bib", "\n".join(w.bibtex for w in r.works))
        if r.profile is None:
            store.remove(beside / "profile.csv", beside / "profile.tex")
        else:
            store.write_text(beside / "profile.csv", csv_text(r.profile.to_frame()))
            store.write_text(beside / "profile.tex", latex(r.profile, r.names, r.incomplete))
        bars = [(r.names[c], b) for c, b in page.shares(r.study, r.names)]
        figures = dict(pdf.figures(r.panels, r.key, r.evolution, bars))
        for name, data in figures.items():
            store.write_bytes(beside / "figures" / name, data)
        store.remove(*(p for p in (beside / "figures").glob("*.pdf") if p.name not in figures))
    return path


def as_json(r: Report) -> dict:
    """The profile (None, with the reason, if there is none), timescales and what is not known."""
    times = [
        {
            "condition": t.condition,
            "measure": t.measure,
            "change": t.change,
            "text": t.text,
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
        **({"imported": NOTE} if r.study.imported else {}),
        "profile": r.profile.to_dict() if r.profile else None,
        "reason": r.reason or None,
        "incomplete": r.incomplete or None,
        "timescales": times,
        "commands": {recipe.condition: recipe.command for recipe in r.origin.recipes},
        "not_known": list(r.unknown),
    }


def escaped(text: str) -> str:
    """Text for LaTeX in ASCII on one line: accents as macros, other letters as code points."""
    parts = []
    for c in unicodedata.normalize("NFD", " ".join(text.split())):
        if c in ACCENTS and parts:
            parts[-1] = f"\\{ACCENTS[c]}{{{parts[-1]}}}"
        else:
            parts.append(LATEX.get(c, c) if c.isascii() and c.isprintable() else f"U+{ord(c):04X}")
    return "".join(parts)


def formula(x) -> str:
    """A number as a LaTeX formula."""
    text, power = digits(x)
    times = rf"\times10^{{{power}}}" if power else ""
    return f"${text.replace('inf', chr(92) + 'infty').replace(',', '{,}')}{times}$" if text else ""


def latex(profile: Profile, names, incomplete: str = "") -> str:
    """The profile as an ASCII LaTeX table (package booktabs): one row a condition, one column a definition.
    incomplete: which chains are missing, for a comment."""
    import pandas as pd

    rows = []
    for condition in profile.conditions:
        cells = [f"{SYMBOLS.get(v.verdict, '--')} {formula(v.effect)}".strip() for v in profile[condition].values()]
        rows.append([escaped(names.get(condition, condition)), *cells])
    table = pd.DataFrame(rows, columns=["condition", *(f"{k}. {escaped(title)}" for k, title in SHORT.items())])
    seeds = max((v.seeds for v in profile.verdicts), default=0)
    control = " ".join(profile.control.split()).encode("ascii", "backslashreplace").decode()  # in a comment
    imported = " (imported)" if profile.imported else ""
    marked = f"% {' '.join(incomplete.split())}\n".encode("ascii", "backslashreplace").decode() if incomplete else ""
    return (
        f"{marked}% {SYMBOLS['detected']} detected, {SYMBOLS['excluded']} excluded, ? undetermined, -- not measured;\n"
        f"% followed by the effect over {control}{imported}, from up to {seeds} chains; needs booktabs\n"
        + table.style.hide(axis="index").to_latex(hrules=True, column_format="l" * table.shape[1])
    )
