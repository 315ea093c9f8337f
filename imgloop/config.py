"""The configuration: a schema for our own scalars, numbers that change over generations, and errors in one sentence."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from imgloop import store
from imgloop.errors import UserError

# In a wheel conf/ lies inside the package, in a checkout or editable install beside it.
CONF = next(
    p for p in (Path(__file__).parent / "conf", Path(__file__).parent.parent / "conf") if (p / "config.yaml").exists()
)
MIXING = ("n_initial", "real_fraction", "n_real", "n_synthetic", "budget")  # the paradigms' knobs, on the top level
# Settings that say where, how far, with what display and with which measures: they change no sample of a chain.
APART = ("seed", "generations", "study", "out", "overwrite", "threads", "features", "display", "keep_models", "trainer")


@dataclass(frozen=True)
class Schedule:
    """A number for each generation t: start * factor^t, at most max; or the entries of a list.

    Written `2000`, `{start: 500, factor: 2, max: 4000}` or `[500, 1000, 2000]`. A list has no value beyond its end:
    UserError.
    """

    name: str
    start: float = 0.0
    factor: float = 1.0
    max: float = math.inf
    values: tuple[float, ...] | None = None
    low: float | None = None
    high: float | None = None
    whole: bool = True

    @classmethod
    def of(cls, name: str, value, low: float | None = None, high: float | None = None, whole: bool = True) -> Schedule:
        """Read a number, mapping or list as it stands in a config; every value must lie in [low, high]."""
        if isinstance(value, Schedule):
            return value
        limits = {"low": low, "high": high, "whole": whole}
        if isinstance(value, Sequence) and not isinstance(value, str):
            schedule = cls(name, values=tuple(value), **limits)
            if not value:
                raise UserError(f"{name}=[] is empty: give one value a generation.")
            for v in value:
                schedule.checked(v)
            return schedule
        if hasattr(value, "items"):
            extra = set(value) - {"start", "factor", "max"}
            if extra or "start" not in value:
                raise UserError(
                    f"{name} as a schedule takes start, factor and max, start being required; got "
                    f"{', '.join(map(str, value)) or 'nothing'}."
                )
            for key in ("factor", "max"):
                if key in value and (
                    isinstance(value[key], bool) or not isinstance(value[key], int | float) or not value[key] > 0
                ):
                    raise UserError(f"{name}.{key}={value[key]}: give a number above 0.")
            schedule = cls(name, **{k: v for k, v in value.items()}, **limits)
            schedule.checked(schedule.start)
            return schedule
        schedule = cls(name, start=value, **limits)
        schedule.checked(value)
        return schedule

    def checked(self, value) -> float:
        low, high, whole = self.low, self.high, self.whole
        kind = "a whole number" if whole else "a number"
        span = (
            f" from {low:g} to {high:g}"
            if low is not None and high is not None
            else f" of at least {low:g}"
            if low is not None
            else ""
        )
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or (whole and value != int(value))
            or (low is not None and value < low)
            or (high is not None and value > high)
        ):
            raise UserError(f"{self.name}={value}: give {kind}{span}, a list of them, or {{start: , factor: , max: }}.")
        return int(value) if whole else float(value)

    def __call__(self, t: int) -> float:
        """The value at generation t, an int where the schedule is whole."""
        if self.values is not None:
            if t >= len(self.values):
                raise UserError(
                    f"{self.name} lists {len(self.values)} values, but generation {t} needs one: give one a generation."
                )
            return self.checked(self.values[t])
        value = min(self.start * self.factor**t, self.max)
        value = math.floor(value + 1e-9) if self.whole else value
        return self.checked(value)


@dataclass
class Train:
    """How much training a generation gets."""

    images: Any = 100_000  # training images a generation sees, whatever the size of its mix; a number or schedule


@dataclass
class Config:
    """Our own scalars, with their types; the groups (paradigm, data, model, features, trainer) are filled from
    conf/."""

    paradigm: Any = None
    data: Any = None
    model: Any = None
    features: Any = None
    trainer: Any = None
    seed: int = 0
    generations: int = 5  # generations 0..generations - 1
    n_samples: Any = None  # samples drawn a generation; null: as many as R; a number or schedule
    n_initial: Any = None
    real_fraction: Any = 0
    n_real: Any = None
    n_synthetic: Any = None
    budget: Any = None
    start: str = "scratch"
    train: Train = field(default_factory=Train)
    study: str | None = None
    out: str = "outputs"
    overwrite: bool = False
    threads: int | None = None
    display: str = "auto"  # auto | live | lines | none
    keep_models: int | None = None


def register() -> None:
    """Make the schema known to Hydra, under the name that conf/config.yaml begins with."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=Config)


def compose(overrides: Sequence[str] = ()):
    """The config (OmegaConf, resolved choices included under `hydra`) for command-line style overrides."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register()
    outer = GlobalHydra.instance().hydra  # set where hydra.main runs us
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            return hydra_compose("config", overrides=list(overrides), return_hydra_config=True)
    finally:
        GlobalHydra.instance().hydra = outer


def parsed(overrides: Sequence[str] = ()) -> Settings:
    """Checked settings for command-line style overrides; raises UserError for one that is wrong."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        cfg = compose(overrides)
    except (HydraException, OmegaConfBaseException) as e:
        raise UserError(sentence(e)) from e
    return checked(cfg, cfg.hydra.runtime.choices)


def checked(cfg, choices) -> Settings:
    """Checked settings of a composed config and its choice of options; raises UserError for a setting that is wrong."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        return Settings.of(cfg, dict(choices))
    except OmegaConfBaseException as e:
        raise UserError(sentence(e)) from e


def flat(value, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    if isinstance(value, dict) and value:
        return {
            k: v
            for key, inner in value.items()
            for k, v in flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    return {prefix: value}


@dataclass(frozen=True)
class Settings:
    """One chain's configuration, checked: plain values, the choice of each group, and the names derived from them."""

    config: dict[str, Any]  # the whole config, resolved
    choices: dict[str, str]  # group -> option
    defaults: dict[str, Any]  # the config of the same choices without any other setting

    @classmethod
    def of(cls, cfg, choices: dict[str, str]) -> Settings:
        """Check a composed config; raises UserError at the first setting that is wrong."""
        from omegaconf import OmegaConf

        groups = {g: o for g, o in choices.items() if (CONF / g).is_dir()}
        base = compose([f"{g}={o}" for g, o in groups.items() if o])
        plain = [
            OmegaConf.to_container(
                OmegaConf.masked_copy(c, [k for k in c if k != "hydra"]), resolve=resolve, throw_on_missing=resolve
            )
            for c, resolve in ((cfg, True), (base, False))
        ]
        settings = cls(plain[0], groups, plain[1])
        settings.check()
        return settings

    def check(self) -> None:
        c, known = self.config, set(self.defaults)
        for key in flat(c):
            if key.split(".")[0] not in known:
                raise UserError(f"{key.split('.')[0]} is not a setting; the settings are {', '.join(sorted(known))}.")
        for group in ("data", "model", "paradigm", "features", "trainer"):
            extra = set(c[group] or {}) - set(self.defaults[group] or {})
            if extra:
                raise UserError(
                    f"{group}.{min(extra)} is not a setting of {group}={self.choices[group]}; it has "
                    f"{', '.join(k for k in self.defaults[group] if k != '_target_')}."
                )
        for name, low in (("generations", 1), ("keep_models", 0), ("threads", 1)):
            if c[name] is not None and not low <= c[name] <= 100_000:
                raise UserError(f"{name}={c[name]}: give a whole number of at least {low}.")
        if c["seed"] < 0:
            raise UserError(f"seed={c['seed']}: give a whole number of at least 0.")
        if c["display"] not in ("auto", "live", "lines", "none"):
            raise UserError(f"display={c['display']}: choose auto, live, lines or none.")
        if c["study"] is not None and (
            not re.fullmatch(r"[\w.,=+-]+", str(c["study"])) or str(c["study"]).startswith(".")
        ):
            raise UserError(f"study={c['study']}: use letters, digits and any of _.,=+- for the study's name.")
        for name in MIXING:
            if c[name] != self.defaults[name] and name not in c["paradigm"]:
                users = [
                    p.stem
                    for p in sorted((CONF / "paradigm").glob("*.yaml"))
                    if re.search(rf"^{name}:", p.read_text(), re.M)
                ]
                raise UserError(
                    f"{name} has no effect under paradigm={self.choices['paradigm']}; it is a setting of "
                    f"{', '.join(users)}."
                )
        self.images, self.n_samples  # noqa: B018  (read, so that a wrong value is told now)

    @property
    def images(self) -> Schedule:
        return Schedule.of("train.images", self.config["train"]["images"], 1)

    @property
    def n_samples(self) -> Schedule | None:
        value = self.config["n_samples"]
        return None if value is None else Schedule.of("n_samples", value, 1)

    @property
    def identity(self) -> dict[str, Any]:
        """Every setting that changes results except the seed, flat; equal identities and seeds give equal chains."""
        kept = {k: v for k, v in self.config.items() if k not in APART}
        return {**flat(kept), "trainer.precision": self.config["trainer"]["precision"]}

    @property
    def condition(self) -> str:
        """The paradigm followed by the settings that are not the defaults; shortened by a hash when long."""
        import yaml

        defaults = flat(self.defaults)
        parts = []
        identity = self.identity
        for key in [k for k in MIXING if k in identity] + [k for k in identity if k not in MIXING]:
            value = identity[key]
            if key.startswith("paradigm."):
                continue
            default = defaults.get(key)
            if value != default and not (isinstance(default, str) and default.startswith("${")):
                if key == "data.root":
                    continue  # the folder's name is in the study's
                text = yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("...").strip()
                parts.append(f"{key}={re.sub(r'[^A-Za-z0-9_.,=+-]+', '', text)}")
        name = ",".join([self.choices["paradigm"], *parts])
        return name if len(name) <= 120 else f"{name[:108]}-{store.content_key(name)[:8]}"

    @property
    def study(self) -> Path:
        name = self.config["study"] or f"{self.choices['data']}-{self.choices['model']}"
        return Path(os.path.expanduser(self.config["out"])) / name

    @property
    def folder(self) -> Path:
        return self.study / self.condition / f"seed{self.config['seed']}"


def build(node: dict[str, Any], **more):
    """The object that a config node's `_target_` names, with the node's settings; a mistake in them stays one
    sentence."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(node, _convert_="all", _partial_=True)(**more)
    except InstantiationException as e:
        cause = e.__cause__
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        raise (cause or e) from e


KINDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false", "String": "text"}


def sentence(error: Exception) -> str:
    """A Hydra or OmegaConf error as one sentence that names what is allowed."""
    deepest = error
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    key, text, cause = getattr(deepest, "full_key", None), str(error), str(deepest)
    if match := re.search(r"Could not find '([\w-]+)/([^']+)'", text):
        options = sorted(p.stem for p in (CONF / match[1]).glob("*.yaml"))
        return f"{match[1]}={match[2]} does not exist: choose one of {', '.join(options)}."
    if match := re.search(r"Value '(.*?)'(?: of type '\w+')? could not be converted to (\w+)", cause):
        return f"{key}={match[1]}: give {KINDS.get(match[2], match[2])}."
    if match := re.search(r"Value '(.*?)' is not a valid (bool|int|float)", cause):
        return f"{key}={match[1]}: give {KINDS[{'bool': 'Boolean', 'int': 'Integer', 'float': 'Float'}[match[2]]]}."
    if "Missing mandatory value" in cause or ("is missing" in cause and key):
        return f"{key} has no value: give {key}=..."
    if match := re.search(r"override '(.*)'\s*missing EQUAL", text):
        return f"{match[1]!r} is no setting: write settings as key=value, for example paradigm=replace."
    if "mismatched input" in text or "token recognition error" in text:
        return (
            "A value holds a character that means something to Hydra (such as = , : or a space): put the value "
            "in quotes inside the "
            "shell's, for example 'start=\"outputs/a,b=1/seed0/gen001\"'."
        )
    if match := re.search(r"Ambiguous value for argument '(.*?)'", text):
        return f"{match[1]} gives several values: add -m to run them all, or write a list as key=[a,b]."
    match = re.search(r"Could not override '([\w./@]+)'", text)
    key = key or (match and match[1])
    if key and (siblings := allowed(key)):
        close = get_close_matches(key.rsplit(".", 1)[-1], siblings, 1)
        hint = f"; did you mean {close[0]}?" if close else "."
        return f"{key} is not a setting{hint} Allowed here: {', '.join(siblings)}."
    return " ".join(text.split())


def allowed(key: str) -> list[str]:
    """The settings beside `key` in the default config of the options on the command line."""
    import sys

    chosen = [
        a for a in sys.argv[1:] if "=" in a and a.split("=")[0] in {p.name for p in CONF.iterdir()} and "," not in a
    ]
    try:
        node = compose(chosen)
    except Exception:
        return []
    for part in key.split(".")[:-1]:
        node = node.get(part) if hasattr(node, "get") else None
    return [k for k in node if k not in ("hydra", "_target_")] if hasattr(node, "keys") else []
