"""Composing a configuration with Hydra: our options, those of a user's folders and those of installed packages."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from imgloop.errors import UserError

# In a wheel conf/ lies inside the package, in a checkout or editable install beside it.
CONF = next(p / "conf" for p in Path(__file__).parents[1:3] if (p / "conf" / "config.yaml").exists())
GROUPS = (  # config groups whose options are parts or settings of ours; a user's folder may add options to each
    "experiment",
    "paradigm",
    "curation",
    "correction",
    "data",
    "model",
    "features",
    "measure",
    "collapse",
    "trainer",
    "logger",
)
PATHS = ("fork", "start", "data.root")  # settings that name a folder or file that exists
PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")  # text that needs no quotes of Hydra's
ENTRY_POINTS = "imgloop.parts"  # an installed package names the module whose folder, or its conf/, holds options


@dataclass
class Train:
    """How much training a generation gets."""

    images: Any = 100_000  # training images a generation sees, whatever the size of its mix; a number or schedule
    flip: bool = False  # whether training images are mirrored at random


@dataclass
class Config:
    """Our own scalars, with their types; the groups are filled from conf/ and from a user's folders."""

    paradigm: Any = None
    curation: Any = None
    correction: Any = None
    data: Any = None
    model: Any = None
    features: Any = None
    measure: dict[str, Any] = field(default_factory=dict)
    collapse: Any = None
    trainer: Any = None
    logger: Any = None
    seed: int = 0
    generations: int = 5  # generations 0..generations - 1
    n_samples: Any = None  # samples drawn a generation; null: as many as R; a number or schedule
    n_initial: Any = None
    real_fraction: Any = 0
    n_real: Any = None
    n_synthetic: Any = None
    budget: Any = None
    edit_fraction: Any = None
    select_from: str = "pool"
    real_weight: Any = None
    start: str = "scratch"
    fork: str | None = None
    train: Train = field(default_factory=Train)
    study: str | None = None
    out: str = "outputs"
    overwrite: bool = False
    threads: int | None = None
    display: str = "auto"
    keep_models: int | None = None


def register() -> None:
    """Register the schema and the options of installed packages with Hydra."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    ConfigStore.instance().store(name="schema", node=Config)
    plugins = Plugins.instance()
    launchers: Any = ConfigStore.instance().repo["hydra"]["launcher"]
    for path in (CONF / "hydra" / "launcher").glob("*.yaml"):  # ours count where a plugin has one of equal name
        launchers.pop(path.name, None)
    if any(p.__name__ == "InstalledParts" for p in plugins.discover(SearchPathPlugin)):
        return

    class InstalledParts(SearchPathPlugin):
        def manipulate_search_path(self, search_path):
            for name, folder in installed().items():
                search_path.append(f"imgloop.parts {name}", f"file://{folder}")

    plugins.register(InstalledParts)


@cache
def installed() -> dict[str, Path]:
    """Folders of options of installed packages, by the name of their entry point. Raises UserError for an entry point
    whose module cannot be found."""
    folders = {}
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            spec = find_spec(entry.value)
        except (ImportError, ValueError):
            spec = None
        if spec is None or not (spec.submodule_search_locations or spec.origin):
            raise UserError(
                f"The entry point {entry.name} = {entry.value} of group {ENTRY_POINTS}: no such module; install the "
                "package again, or uninstall it."
            )
        places = list(spec.submodule_search_locations or [])
        folder = Path(places[0] if places else str(spec.origin)).absolute()
        folder = folder if folder.is_dir() else folder.parent
        folders[entry.name] = folder / "conf" if (folder / "conf").is_dir() else folder
    return folders


def config_folders(dirs: Iterable[str | Path | None]) -> tuple[Path, ...]:
    """Absolute folders of a user's options; raises UserError for one that does not exist."""
    folders = []
    for d in dirs:
        if d is None:
            continue
        folder = Path(os.path.expanduser(str(d).removeprefix("file://"))).absolute()
        if not folder.is_dir():
            raise UserError(
                f"config_dir={d} is not a folder: give the folder that holds your options, such as "
                "DIR/paradigm/window.yaml with DIR/window.py.",
                "config_dir",
            )
        check_options(folder)
        folders.append(folder)
    return tuple(dict.fromkeys(folders))


def check_options(folder: Path) -> None:
    """Raise UserError, naming the file, unless each option of a user's folder is YAML with named settings."""
    for path in sorted(p for group in GROUPS for p in (folder / group).rglob("*.yaml")):
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError, OSError) as e:
            raise UserError(
                f"{path} cannot be read as YAML ({' '.join(str(e).split())}): mend the file.", "config_dir"
            ) from e
        if values is not None and not isinstance(values, dict):
            raise UserError(
                f"{path} holds a {type(values).__name__}; expected settings by name, such as _target_: MODULE.CLASS.",
                "config_dir",
            )


def folders_of(cfg: Any) -> tuple[Path, ...]:
    """The folders of options that a composed config was searched in, besides ours and those of installed packages."""
    known = {CONF.resolve(), *(p.resolve() for p in installed().values())}
    folders = []
    for source in cfg.hydra.runtime.config_sources:
        path = source.path
        if source["schema"] == "pkg" and source.provider not in ("hydra", "main"):
            spec = find_spec(path)
            places = list(spec.submodule_search_locations or []) if spec else []
            path = places[0] if places else ""
        elif source["schema"] != "file":
            continue
        if path and Path(path).is_dir() and Path(path).resolve() not in known:
            folders.append(Path(path).absolute())
    return tuple(dict.fromkeys(folders))


def compose(overrides: Sequence[str] = (), config_dirs: Sequence[Path] = ()) -> Any:
    """The config (OmegaConf, resolved choices included under `hydra`) for command-line style overrides."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register()
    search = [f"hydra.searchpath=[{','.join(quoted(f'file://{d}') for d in config_dirs)}]"] if config_dirs else []
    outer = GlobalHydra.instance().hydra  # set where hydra.main runs us
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            return hydra_compose("config", overrides=[*search, *with_paths_quoted(overrides)], return_hydra_config=True)
    finally:
        GlobalHydra.instance().hydra = outer


def expanded(params: Mapping[str, Any] | None, overrides: Sequence[str], loader: Any = None) -> list[list[str]]:
    """The overrides of each job of a multirun, in the order of Hydra's own sweeper: those of hydra.sweeper.params,
    which those given replace. Raises Hydra's own exceptions."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # Hydra's extension point for sweepers
    from hydra.core.override_parser.overrides_parser import OverridesParser

    given = OverridesParser.create(loader).parse_overrides(
        [*(f"{k}={v}" for k, v in (params or {}).items()), *overrides]
    )
    return [list(job) for batch in BasicSweeper.split_arguments(given, None) for job in batch]


def spelt(value: Any) -> str:
    """A value as Hydra's command line reads it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}: {spelt(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(spelt, value)) + "]"
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        if PLAIN.fullmatch(text) and text.lower() not in ("null", "true", "false", "nan", "inf"):
            return text
        return quoted(text, '"')
    return str(value)


def with_paths_quoted(overrides: Sequence[str]) -> list[str]:
    """Overrides in which a folder or file that exists needs no quotes of Hydra's, such as
    fork=outputs/digits-diffusion/replace,real_fraction=0.1/seed0@2."""
    return [f"{key}={quoted(value)}" if _is_path(key, value) else o
            for o in overrides for key, _, value in [o.partition("=")]]  # fmt: skip


def _is_path(key: str, value: str) -> bool:
    if key not in PATHS or PLAIN.fullmatch(value) or value[:1] in ("", "'", '"'):
        return False
    path = value.rpartition("@")[0] if key == "fork" else value
    head, interpolated, _ = path.partition("${")  # seed${seed}: the folder above it
    folder = Path(head).expanduser()
    return (folder.parent if interpolated and not head.endswith("/") else folder).exists()


def quoted(text: str, mark: str = "'") -> str:
    """Text as a string of Hydra's override grammar, in which backslashes count only before a quotation mark."""
    inner = re.sub(rf"(\\*)({mark}|\Z)", lambda m: 2 * m[1] + ("\\" + mark if m[2] else ""), text)
    return mark + inner + mark


def composed(*overrides: str, config_dirs: Sequence[Path] = ()) -> Any:
    """The config of choices of options alone, composed once for equal files; not to be changed."""
    files = sorted(p for folder in config_dirs for group in GROUPS for p in (folder / group).rglob("*.yaml"))
    return _composed(overrides, tuple(config_dirs), tuple((p, p.stat().st_mtime_ns) for p in files))


@cache
def _composed(overrides: tuple[str, ...], config_dirs: tuple[Path, ...], files: tuple[tuple[Path, int], ...]) -> Any:
    return compose(overrides, config_dirs)


def options(group: str, config_dirs: Sequence[Path] = ()) -> dict[str, Path]:
    """The options of a group, by name, with their YAML files: ours, then those of installed packages and folders.

    Raises UserError for an option that has the name of another.
    """
    found: dict[str, Path] = {}
    for folder in dict.fromkeys((CONF, *installed().values(), *config_dirs)):
        root = folder / group
        for path in sorted(root.rglob("*.yaml")) if root.is_dir() else ():
            name = path.relative_to(root).with_suffix("").as_posix()
            if name in found and found[name].resolve() != path.resolve():
                raise UserError(
                    f"{path} has the name of another option, {group}={name} ({found[name]}): rename the file.", group
                )
            found.setdefault(name, path)
    return found


def root(experiment: str, config_dirs: Sequence[Path] = ()) -> str:
    """The experiment that another one extends, by an entry /experiment/NAME@_global_ of its defaults, from the first in
    such a row; `experiment` itself where it extends none, or names a study of its own."""
    files, seen = options("experiment", config_dirs), [experiment]
    while path := files.get(seen[-1]):
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        entries = () if "study" in values else values.get("defaults") or ()
        names = (re.fullmatch(r"/experiment/(.+)@_global_", str(entry)) for entry in entries)
        extended = next((m[1] for m in names if m), None)
        if extended is None or extended in seen:
            break
        seen.append(extended)
    return seen[-1]
