"""How to run a study again: a command for each condition from its config.yaml, versions, machines, data and seeds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from imgloop import store
from imgloop.config import settings as config
from imgloop.errors import UserError
from imgloop.report.text import listed, ranges
from imgloop.study import tables as study
from imgloop.study.study import Study

GROUPS = ("experiment", "paradigm", "data", "model", "features", "collapse", "trainer", "tier")
ELSEWHERE = ("seed", "study", "out", "overwrite", "display")  # given apart, or of no effect on what a chain holds


@dataclass(frozen=True)
class Recipe:
    """How one condition was made: its command, or why there is none, and its whole configuration as YAML."""

    condition: str
    name: str
    seeds: str
    command: str
    config: str


@dataclass(frozen=True)
class Origin:
    """Where a study's numbers come from: recipes by condition; rows of (what, values) on versions, machines, data."""

    recipes: tuple[Recipe, ...]
    versions: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]


def origin(study_: Study, names: Mapping[str, str]) -> Origin:
    """What it takes to run a study again; nothing for a table alone."""
    if study_.is_csv:
        return Origin((), (), (("table", study_.path.name),))
    recipes = tuple(_recipe(study_, c, names[c]) for c in names)
    versions: dict[str, set[str]] = {}
    machines: dict[str, set[str]] = {}
    written = []
    for record in records(study_):
        for key, value in dict(record["versions"]).items():
            versions.setdefault(str(key), set()).add(str(value))
        for key, value in dict(record.get("machine") or {}).items():
            machines.setdefault(str(key), set()).add("none" if value is None else str(value))
        written.append(str(record.get("written", "")))
    facts = [(key, listed(sorted(values))) for key, values in machines.items()]
    facts.append(("written", f"{min(written)} to {max(written)}"))
    if not study_.solvable:
        facts += [("scores", study_.shown_protocol or "none"), *_protocol(study_)]
        try:
            facts += [(f"data: {k}", _short(v)) for k, v in study_.real.facts.to_dict().items() if v not in ({}, None)]
        except UserError as e:
            facts.append(("data", str(e)))
    return Origin(recipes, tuple((k, listed(sorted(v))) for k, v in versions.items()), tuple(facts))


def records(study_: Study) -> list[dict[str, Any]]:
    """record.json of every generation, or of every chain of solvable systems."""
    if study_.solvable:
        return [store.read_json(c / "record.json") for c in study_.chains]
    return [store.read_json(g / "record.json") for c in study_.chains for g in study.generations(c)]


def _protocol(study_: Study) -> list[tuple[str, str]]:
    """What the shown scores were measured with."""
    name = f"{study_.shown_protocol}.json"
    for chain in study_.chains:
        for folder in study.generations(chain):
            if (folder / "scores" / name).exists():
                told = store.read_json(folder / "scores" / name).get("protocol")
                kept = dict(told) if isinstance(told, Mapping) else {}
                return [(f"scores: {k}", _short(v)) for k, v in kept.items() if v is not None]
    return []


def _short(value) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text if len(text) <= 160 else f"{text[:150]} ..."


def _recipe(study_: Study, condition: str, name: str) -> Recipe:
    seeds = study_.seeds(condition)
    chain = study_.chain(condition, seeds[0])
    try:
        told = study_.config(chain)
        text, line = yaml.safe_dump(told, sort_keys=False, allow_unicode=True), command(told, seeds)
    except UserError as e:
        text, line = "", f"# no command: {e}"
    return Recipe(condition, name, ranges(seeds), line, text)


def command(told: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """The command line that makes a chain with this config.yaml (choices and config), for all `seeds`.

    Raises UserError where the configuration names an option that this version does not have.
    """
    chosen = {}
    for group in GROUPS:
        option = told["choices"].get(group)
        if option is None:
            continue
        if not re.fullmatch(r"[\w/-]+", str(option)) or not (config.CONF / group / f"{option}.yaml").is_file():
            raise UserError(f"{group}={option} is no option of this version")
        chosen[group] = str(option)
    experiment = [f"experiment={chosen['experiment']}"] if "experiment" in chosen else []
    usual = config.composed(*experiment).hydra.runtime.choices
    chosen.pop("experiment", None)
    options = experiment + [f"{g}={o}" for g, o in chosen.items() if g == "paradigm" or usual.get(g) != o]
    from omegaconf import OmegaConf

    base = config.composed(*options)
    base = OmegaConf.masked_copy(base, [k for k in base if k != "hydra"])
    written = config.flat(OmegaConf.to_container(base, resolve=False))
    resolved = config.flat(OmegaConf.to_container(base, resolve=True, throw_on_missing=False))
    settings = []
    for key, value in config.flat(dict(told["config"])).items():
        if key in ELSEWHERE or key.endswith("_target_"):
            continue
        refers = isinstance(written.get(key), str) and str(written[key]).startswith("${")
        if value != resolved.get(key) and not refers:
            settings.append(f"{key}={spelt(value)}")
    if told["config"].get("study"):
        settings.append(f"study={told['config']['study']}")
    consecutive = len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1
    many = f"range({seeds[0]},{seeds[-1] + 1})" if consecutive else ",".join(map(str, seeds))
    several = ["-m"] if len(seeds) > 1 else []
    words = ["python", "-m", "imgloop", *several, *options, *settings, f"seed={many}"]
    return " ".join(word if re.fullmatch(r"[\w./,=+:@%-]+", word) else shlex.quote(word) for word in words)


def spelt(value) -> str:
    """A value as Hydra's command line reads it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}: {spelt(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(spelt, value)) + "]"
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z_./][\w./-]*", value):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)
