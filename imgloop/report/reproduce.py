"""How to run a study again: one command a condition from its config.yaml, with versions, machines, data and seeds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgloop import store
from imgloop.config import compose, settings
from imgloop.errors import UserError
from imgloop.report.text import listed, ranges
from imgloop.study import tables
from imgloop.study.imported import MARK
from imgloop.study.study import Study

GROUPS = "experiment paradigm curation correction data model features measure collapse trainer".split()
ELSEWHERE = ("seed", "study", "out", "overwrite", "display")  # given apart, or without effect on a chain's content


@dataclass(frozen=True)
class Recipe:
    """How one condition was made: its command, or why there is none, and its configuration as YAML."""

    condition: str
    name: str
    seeds: str
    command: str
    config: str


@dataclass(frozen=True)
class Origin:
    """Where a study's numbers come from: recipes by condition; rows (name, values) of versions, machines and data; of
    imported images their sources (chain, generation, images, path, hash)."""

    recipes: tuple[Recipe, ...]
    versions: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    sources: tuple[tuple[str, int, str, str, str], ...] = ()

    @property
    def commands(self) -> list[str]:
        """The commands of all conditions, each once."""
        return list(dict.fromkeys(recipe.command for recipe in self.recipes))


def origin(study: Study, names: Mapping[str, str]) -> Origin:
    """What is needed to run a study again; of a CSV table only its name."""
    if study.is_csv:
        return Origin((), (), (("table", study.path.name),))
    recipes = tuple(_recipe(study, c, names[c]) for c in names)
    versions: dict[str, set[str]] = {}
    machines: dict[str, set[str]] = {}
    written = []
    for record in records(study):
        for key, value in dict(record["versions"]).items():
            versions.setdefault(str(key), set()).add(str(value))
        for key, value in dict(record.get("machine") or {}).items():
            machines.setdefault(str(key), set()).add("none" if value is None else str(value))
        written.append(str(record.get("written", "")))
    facts = [(key, listed(sorted(values))) for key, values in machines.items()]
    facts.append(("written", f"{min(written)} to {max(written)}"))
    if not study.solvable:
        facts += [("scores", study.shown_protocol or "none"), *_protocol(study)]
        try:
            facts += [(f"data: {k}", _short(v)) for k, v in study.real.facts.to_dict().items() if v not in ({}, None)]
        except UserError as e:
            facts.append(("data", str(e)))
    made_by = tuple((k, listed(sorted(v))) for k, v in versions.items())
    return Origin(recipes, made_by, tuple(facts), tuple(_sources(study)))


def records(study: Study) -> list[dict[str, Any]]:
    """record.json of every generation; of solvable systems, of every chain."""
    if study.solvable:
        return [store.read_json(c / "record.json") for c in study.chains]
    return [store.read_json(g / "record.json") for c in study.chains for g in tables.generations(c)]


def _sources(study: Study) -> Iterator[tuple[str, int, str, str, str]]:
    """Where the images of imported chains come from: chain, generation, number of images, path, hash."""
    for chain in study.chains if study.imported else ():
        for t, folder in enumerate(tables.generations(chain)):
            source = store.read_json(folder / "record.json").get(MARK)
            values = source if isinstance(source, Mapping) else {}
            images, path, digest = (str(values.get(k, "")) for k in ("images", "path", "hash"))
            yield f"{chain.parent.name}, {chain.name}", t, images, path, digest[:16]


def _protocol(study: Study) -> list[tuple[str, str]]:
    """The protocol of the shown scores."""
    name = f"{study.shown_protocol}.json"
    for chain in study.chains:
        for folder in tables.generations(chain):
            if (folder / "scores" / name).exists():
                protocol = store.read_json(folder / "scores" / name).get("protocol")
                protocol = dict(protocol) if isinstance(protocol, Mapping) else {}
                return [(f"scores: {k}", _short(v)) for k, v in protocol.items() if v is not None]
    return []


def _short(value) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text if len(text) <= 160 else f"{text[:150]} ..."


def _recipe(study: Study, condition: str, name: str) -> Recipe:
    seeds = study.seeds(condition)
    try:
        stored = study.config(study.chain(condition, seeds[0]))
        text, line = store.yaml_text(stored), command(stored, seeds)
    except UserError as e:
        text, line = "", f"# no command: {e}"
    return Recipe(condition, name, ranges(seeds), line, text)


def command(stored: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """The command that makes the chains of `seeds` with this config.yaml (choices, config, config_dirs).

    Raises UserError for an option that this version does not have, unless it can be in a user's config folder.
    """
    if "import" in stored["config"]:
        return shlex.join(["python", "-m", "imgloop.study", "import", *map(str, stored["config"]["import"])])
    from omegaconf import OmegaConf

    folders = [str(folder) for folder in stored.get("config_dirs") or ()]
    chosen = {}
    for group in GROUPS:
        option = stored["choices"].get(group)
        if option is None:
            continue
        if not re.fullmatch(r"[\w/,-]+", str(option)) or not (folders or _ours(f"{group}={option}")):
            raise UserError(f"{group}={option} is not an option of this version", group)
        chosen[group] = f"[{option}]" if "," in str(option) else str(option)
    experiment = [f"experiment={chosen['experiment']}"] if "experiment" in chosen else []
    usual = _composed(folders, experiment).hydra.runtime.choices
    chosen.pop("experiment", None)
    options = experiment + [f"{g}={o}" for g, o in chosen.items() if g == "paradigm" or usual.get(g) != o]
    base = _composed(folders, options)
    base = OmegaConf.masked_copy(base, [str(k) for k in base if k != "hydra"])
    written = settings.flat(OmegaConf.to_container(base, resolve=False))
    resolved = settings.flat(OmegaConf.to_container(base, resolve=True, throw_on_missing=False))
    changed = []
    for key, value in settings.flat(dict(stored["config"])).items():
        if key in ELSEWHERE or key.endswith("_target_") or key not in resolved:
            continue
        check_plain(key, value)
        refers = isinstance(written.get(key), str) and str(written[key]).startswith("${")
        if value != resolved.get(key) and not refers:
            changed.append(f"{key}={compose.spelt(value)}")
    if stored["config"].get("study"):
        check_plain("study", stored["config"]["study"])
        changed.append(f"study={compose.spelt(stored['config']['study'])}")
    consecutive = len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1
    many = f"range({seeds[0]},{seeds[-1] + 1})" if consecutive else ",".join(map(str, seeds))
    flags = ["--config-dir", folders[0].removeprefix("file://")] if folders else []
    flags += ["-m"] if len(seeds) > 1 else []
    search = [f"hydra.searchpath={compose.spelt([f'file://{f}' for f in folders[1:]])}"] if folders[1:] else []
    words = ["python", "-m", "imgloop", *flags, *search, *options, *changed, f"seed={many}"]
    return " ".join(word if re.fullmatch(r"[\w./,=+:@%-]+", word) else shlex.quote(word) for word in words)


def check_plain(key: str, value: Any) -> None:
    """Raise UserError for a value that Hydra would not take as it stands: one with keys of its own that begin with an
    underscore (_target_), or with an interpolation (${...})."""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, part in inner:
        if str(name).startswith("_"):
            raise UserError(f"{key} holds {name}, which no setting has: it names code, and is not printed", key)
        check_plain(key, part)
    if isinstance(value, str) and "${" in value:
        raise UserError(f"{key} holds ${{...}}, which would be replaced, and is not printed", key)


def _ours(option: str) -> bool:
    """Whether GROUP=OPTION is an option of this version or of an installed package."""
    group, _, name = option.partition("=")
    return name in compose.options(group)


def _composed(folders: Sequence[str], options: Sequence[str]):
    """The config of these options with users' config folders; where those are gone, of our options alone."""
    from hydra.errors import HydraException

    there = tuple(Path(f) for f in folders if Path(f).is_dir())
    try:
        return compose.composed(*options, config_dirs=there)
    except HydraException:
        return compose.composed(*filter(_ours, options))
