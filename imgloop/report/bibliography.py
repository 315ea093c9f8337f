"""Which published works a study used, by its measures, models, data and rules; their entries are in references.bib."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from imgloop.errors import UserError
from imgloop.study.study import Study

MARKS = dict(zip("`'^~\"c", "\u0300\u0301\u0302\u0303\u0308\u0327"))  # accents as LaTeX macros, and in Unicode
ALWAYS = {"imgloop": "this software", "schaeffer2025position": "the eight definitions of model collapse"}
MEASURES = {  # by column: key, use
    "fd": ("heusel2017gans", "Frechet distance"),
    "kd": ("binkowski2018demystifying", "kernel distance"),
    "precision": ("kynkaanniemi2019improved", "precision and recall"),
    "density": ("naeem2020reliable", "density and coverage"),
    "authenticity": ("alaa2022faithful", "authenticity"),
    "generalisation": ("shi2025closer", "generalisation score and entropy of training sets"),
    "vendi": ("friedman2023vendi", "Vendi score"),
}
SETTINGS = {  # by (setting, value) of a configuration: key, use
    ("model.objective", "flow"): ("lipman2023flow", "flow matching"),
    ("model.objective", "edm"): ("karras2022elucidating", "EDM preconditioning"),
    ("model.objective", "ddpm"): ("ho2020denoising", "denoising diffusion"),
    ("model.sampler", "ddim"): ("song2021denoising", "DDIM sampler"),
    ("model.sampler", "dpmpp"): ("lu2022dpmpp", "DPM-Solver++"),
    ("model", "gan"): ("huang2024gan", "relativistic GAN with two gradient penalties"),
    ("data", "digits"): ("alpaydin1998optical", "handwritten digits"),
    ("data", "stacked_digits"): ("alpaydin1998optical", "handwritten digits"),
    ("data", "cifar10"): ("krizhevsky2009learning", "CIFAR images"),
    ("data", "cifar100"): ("krizhevsky2009learning", "CIFAR images"),
    ("data", "ffhq"): ("karras2019style", "FFHQ images"),
    ("paradigm", "replace"): ("shumailov2024ai", "training on the newest samples"),
    ("paradigm", "accumulate"): ("gerstgrasser2024inevitable", "accumulating samples"),
    ("paradigm", "accumulate_subsample"): ("kazdan2024collapse", "accumulating under a budget"),
    ("paradigm", "stratified"): ("shi2025closer", "equal shares of every generation"),
    ("paradigm", "fresh"): ("alemohammad2024self", "loops with fresh real data"),
    ("paradigm", "augment"): ("bertrand2024stability", "iterative retraining"),
    ("curation", "farthest"): ("shi2025closer", "greedy selection"),
    ("curation", "threshold"): ("shi2025closer", "threshold decay filter"),
    ("curation", "choice"): ("ferbach2024self", "choice by a reward"),
    ("curation", "verifier"): ("yi2025escaping", "selection by a verifier"),
    ("correction", "centroid"): ("gillman2024self", "correction towards real classes"),
    ("features", "inception"): ("szegedy2016rethinking", "Inception features"),
    ("features", "dinov2"): ("oquab2024dinov2", "DINOv2 features"),
}
STATISTICS = {
    "holm1979simple": "correction for several definitions",
    "westfall1993resampling": "exact step-down sign-flip test",
}
SCALING = {"dohmatob2024tale": "change in scaling laws"}


@dataclass(frozen=True)
class Entry:
    """A BibTeX entry: its source text and its fields (LaTeX)."""

    source: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Work:
    """A published work, what it was used for, its citation as plain text and its BibTeX entry."""

    key: str
    use: str
    citation: str
    bibtex: str


def entries(text: str) -> dict[str, Entry]:
    """BibTeX entries by key: `@kind{key, name = {value}, ...}`, braces in values balanced and at most two deep."""
    found = {}
    for source in re.split(r"^(?=@)", text, flags=re.MULTILINE)[1:]:
        head = re.match(r"@\w+\{([^,\s]+),", source)
        assert head, f"no BibTeX entry: {source[:60]}"
        inner = r"(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*"
        fields = re.findall(rf"(\w+)\s*=\s*\{{({inner})\}}", source[head.end() :])
        found[head[1]] = Entry(source.strip() + "\n", {name.lower(): " ".join(value.split()) for name, value in fields})
    return found


@cache
def references() -> dict[str, Entry]:
    return entries((Path(__file__).parent / "references.bib").read_text("ascii"))


def plain(latex: str) -> str:
    """A BibTeX value as Unicode text, without braces."""
    text = latex.replace(r"{\l}", "ł")
    text = re.sub(r"\\([`'^~\"c])\{?([A-Za-z])\}?", lambda m: m[2] + MARKS[m[1]], text)
    return unicodedata.normalize("NFC", text).replace("{", "").replace("}", "")


def work(key: str, use: str) -> Work:
    entry = references()[key]
    fields = {name: plain(value) for name, value in entry.fields.items()}
    last = [name.split(",")[0] for name in fields["author"].split(" and ")]
    who = " and ".join(last) if len(last) < 3 else f"{last[0]} et al."
    where = fields.get("journal") or fields.get("booktitle") or fields.get("howpublished") or ""
    citation = f"{who} ({fields['year']}). {fields['title']}. {where}.".replace("..", ".")
    return Work(key, use, citation, entry.source)


def used(study: Study, judged: bool, scaling: bool = False) -> list[Work]:
    """What a study should cite; `judged`: verdicts were tested, `scaling`: a scaling law was."""
    table: Any = study.table
    settings = set(_settings(study))
    uses = {**ALWAYS}
    uses |= dict(use for column, use in MEASURES.items() if column in table and table[column].notna().any())
    uses |= dict(use for setting, use in SETTINGS.items() if setting in settings)
    uses |= (STATISTICS if judged else {}) | (SCALING if scaling else {})
    return [work(key, use) for key, use in uses.items()]


def _settings(study: Study) -> Iterator[tuple[str, str]]:
    """(setting, value) of a study's models, data and rules, from its configurations."""
    if study.is_csv:
        yield from (("paradigm", c.split(",")[0]) for c in study.conditions)
        return
    for condition in study.conditions:
        try:
            stored = study.config(study.chain(condition, study.seeds(condition)[0]))
        except UserError:  # reported where the study is described
            continue
        yield from ((group, str(option)) for group, option in stored["choices"].items() if group != "features")
        model = stored["config"].get("model")
        if stored["choices"].get("model") == "diffusion" and isinstance(model, Mapping):
            yield from ((f"model.{k}", str(model.get(k))) for k in ("objective", "sampler"))
    if not study.solvable:
        yield "features", str(study.shown_protocol or "").split("-")[0]
