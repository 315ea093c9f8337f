"""The configuration: a schema for our own scalars, its checks, and the names that follow from it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from imgloop import store
from imgloop.config.fork import Fork
from imgloop.config.schedule import Schedule
from imgloop.errors import UserError
from imgloop.thresholds import Thresholds

# In a wheel conf/ lies inside the package, in a checkout or editable install beside it.
CONF = next(p / "conf" for p in Path(__file__).parents[1:3] if (p / "conf" / "config.yaml").exists())
MIXING = (  # the paradigms' knobs, on the top level
    "n_initial",
    "real_fraction",
    "n_real",
    "n_synthetic",
    "budget",
    "edit_fraction",
)
# Settings that say where, how far, with what display and with which measures: they change no sample of a chain.
APART = (
    "seed",
    "generations",
    "study",
    "out",
    "overwrite",
    "threads",
    "features",
    "collapse",
    "display",
    "keep_models",
    "trainer",
    "logger",
)


@dataclass
class Train:
    """How much training a generation gets."""

    images: Any = 100_000  # training images a generation sees, whatever the size of its mix; a number or schedule


@dataclass
class Config:
    """Our own scalars, with their types; the groups (paradigm, data, model, features, trainer, logger) are filled
    from conf/."""

    paradigm: Any = None
    data: Any = None
    model: Any = None
    features: Any = None
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
    start: str = "scratch"
    fork: str | None = None
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


@cache
def composed(*overrides: str):
    """The config of choices of options alone, composed once a process; not to be changed."""
    return compose(overrides)


def parsed(overrides: Sequence[str] = ()) -> Settings:
    """Checked settings for command-line style overrides; raises UserError for one that is wrong."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from imgloop.config.messages import sentence

    try:
        cfg = compose(overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as e:  # ValueError: a group given a number or null
        raise UserError(sentence(e, overrides)) from e
    return checked(cfg, cfg.hydra.runtime.choices, overrides)


def checked(cfg, choices, overrides: Sequence[str] = ()) -> Settings:
    """Checked settings of a composed config and its choice of options; raises UserError for a setting that is wrong."""
    from omegaconf.errors import OmegaConfBaseException

    from imgloop.config.messages import sentence

    try:
        return Settings.of(cfg, dict(choices))
    except OmegaConfBaseException as e:
        raise UserError(sentence(e, overrides)) from e


def is_schedule(value) -> bool:
    """Whether a setting's value is written {start: , factor: , max: }."""
    return isinstance(value, dict) and "start" in value and set(value) <= {"start", "factor", "max"}


def flat(value, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; a schedule stays a value."""
    if isinstance(value, dict) and value and not is_schedule(value):
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
    usual: dict[str, str]  # group -> option where none is chosen, but for the experiment

    @classmethod
    def of(cls, cfg, choices: dict[str, str]) -> Settings:
        """Check a composed config; raises UserError at the first setting that is wrong."""
        from omegaconf import DictConfig, OmegaConf

        groups = {g: o for g, o in choices.items() if o is not None and (CONF / g).is_dir()}
        # The tier and trainer are not among them: what they change is told by the settings that they change.
        kept = ("experiment", "paradigm", "data", "model", "features", "collapse", "logger")
        several = [g for g in kept if g not in choices and isinstance(cfg.get(g), DictConfig)]
        if several:
            raise UserError(
                f"{several[0]} takes one option; several are not combined (-m with {several[0]}=A,B runs each)."
            )
        base = composed(*(f"{g}={groups[g]}" for g in kept if groups.get(g)))
        for name in [k for k in base if k != "hydra"]:
            if name not in cfg:
                raise UserError(
                    f"{name} was removed (~{name}): every setting is needed; leave it at its default instead."
                )
            if isinstance(base[name], DictConfig) and not isinstance(cfg[name], DictConfig):
                raise UserError(
                    f"{name}={cfg[name]}: {name} is a group of settings; choose one of its options, or change "
                    f"one with {name}.KEY=VALUE."
                )
        plain = [
            OmegaConf.to_container(
                OmegaConf.masked_copy(c, [k for k in c if k != "hydra"]), resolve=resolve, throw_on_missing=resolve
            )
            for c, resolve in ((cfg, True), (base, False))
        ]
        if plain[0]["real_fraction"] is None:
            plain[0]["real_fraction"] = 0
            plain[0]["paradigm"] |= {"real_fraction": 0} if "real_fraction" in plain[0]["paradigm"] else {}
        experiment = groups.get("experiment")
        usual = composed(*([f"experiment={experiment}"] if experiment else [])).hydra.runtime.choices
        settings = cls(plain[0], groups, plain[1], dict(usual))
        settings.check()
        return settings

    def check(self) -> None:
        c, known = self.config, set(self.defaults)
        for key in flat(c):
            if key.split(".")[0] not in known:
                raise UserError(f"{key.split('.')[0]} is not a setting; the settings are {', '.join(sorted(known))}.")
        self.check_solvable()
        for group in ("data", "model", "paradigm", "features", "collapse", "trainer", "logger"):
            extra = set(c[group] or {}) - set(self.defaults[group] or {})
            if extra:
                raise UserError(
                    f"{group}.{min(extra)} is not a setting of {group}={self.choices[group]}; it has "
                    f"{', '.join(k for k in self.defaults[group] or {} if k != '_target_') or 'none'}."
                )
            for key, default in (self.defaults[group] or {}).items():
                if key == "_target_" and c[group].get(key) != default:
                    raise UserError(f"{group}._target_ names code and is no setting: choose an option of {group}.")
                self.check_kind(f"{group}.{key}", c[group].get(key), default)
        for name, low in (("generations", 1), ("keep_models", 0), ("threads", 1)):
            if c[name] is not None and not low <= c[name] <= 100_000:
                raise UserError(f"{name}={c[name]}: give a whole number of at least {low} and at most 100,000.")
        if c["threads"] is not None and c["threads"] > (os.cpu_count() or 1):
            raise UserError(
                f"threads={c['threads']}: this machine has {os.cpu_count()} processors; give at most that many."
            )
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
        self.check_fork()
        Thresholds.of(c["collapse"])
        self.images, self.n_samples  # noqa: B018  (read, so that a wrong value is told now)

    def check_fork(self) -> None:
        """Raise UserError for a fork that is none, or that leaves nothing to do."""
        c = self.config
        if c["fork"] is None or self.solvable:
            return
        fork = Fork.of(c["fork"])
        if c["generations"] <= fork.t + 1:
            raise UserError(
                f"generations={c['generations']} ends with what fork={c['fork']} brings: give generations="
                f"{fork.t + 2} or more."
            )
        if c["start"] not in ("scratch", "weights", "weights_and_optimizer"):
            raise UserError(
                "start=FOLDER gives generation 0 a model, and fork=PATH@t brings generation 0 with it: leave one out."
            )

    def check_solvable(self) -> None:
        """Raise UserError for a setting that a solvable system has no use for: none is silently without effect."""
        c, d, name = self.config, self.defaults, f"model={self.choices['model']}"
        if not self.solvable:
            if self.choices["data"] == "law":
                raise UserError(
                    f"data=law is the true law of a solvable system, such as model=gaussian; {name} learns from "
                    "images: choose another data."
                )
            return
        for group in ("features", "trainer", "tier"):
            if self.choices.get(group) != self.usual[group] or c.get(group) != d.get(group):
                raise UserError(f"{group} has no effect on {name}, which is solved and measures itself: leave it out.")
        for key in ("start", "fork", "keep_models", "threads", "train"):
            if c[key] != d[key]:
                raise UserError(f"{key} has no effect on {name}, which is solved in one step: leave it out.")

    @staticmethod
    def check_kind(name: str, value, default) -> None:
        """Raise UserError where a part's setting is of another kind than its default; null defaults are left to the
        part."""
        if default is None or (isinstance(default, str) and default.startswith(("${", "???"))):
            return
        kinds = {
            bool: (bool, "true or false"),
            int: (int | float, "a number"),
            float: (int | float, "a number"),
            str: (str, "text"),
        }
        kind, said = kinds.get(type(default), (object, ""))
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UserError(
                f"{name}={value}: give {said}, for example {str(default).lower() if kind is bool else default}."
            )

    @property
    def images(self) -> Schedule:
        return Schedule.of("train.images", self.config["train"]["images"], 0)

    @property
    def n_samples(self) -> Schedule | None:
        value = self.config["n_samples"]
        return None if value is None else Schedule.of("n_samples", value, 1)

    @property
    def solvable(self) -> bool:
        """Whether the model is a solvable system, which runs replicates side by side; others are trained."""
        return "replicates" in self.config["model"]

    @property
    def identity(self) -> dict[str, Any]:
        """Every setting that changes results except the seed, flat; equal identities and seeds give equal chains."""
        kept = {k: v for k, v in self.config.items() if k not in APART}
        kept = {**flat(kept), "trainer.precision": self.config["trainer"]["precision"]}
        if kept["fork"] is not None:
            kept["fork"] = Fork.of(kept["fork"]).name(self.config["seed"])  # so that seeds may fork each their own
        kept.pop("data.root", None)  # its content counts, which each generation's record names by hash
        return {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in kept.items()}

    @property
    def condition(self) -> str:
        """The paradigm followed by the settings that are not the defaults; shortened by a hash when long."""
        import yaml

        identity, defaults, parts = self.identity, flat(self.defaults), []
        for key in [k for k in MIXING if k in identity] + [k for k in identity if k not in MIXING]:
            value, default = identity[key], defaults.get(key)
            interpolated = isinstance(default, str) and default.startswith("${")
            if value != default and not interpolated:
                if is_schedule(value):  # 0.4x0.5max2 is {start: 0.4, factor: 0.5, max: 2}
                    value = f"{value['start']}x{value.get('factor', 1)}" + (
                        f"max{value['max']}" if "max" in value else ""
                    )
                text = yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("...").strip()
                plain = re.sub(r"[\[\]{} '\"]", "", text)
                safe = re.sub(r"[^A-Za-z0-9_.,=+-]+", "_", plain)
                parts.append(f"{key}={safe}" + (f"-{store.content_key(plain)[:6]}" if safe != plain else ""))
        if self.config["study"]:  # a study of several data or models names them
            parts = [f"{g}={self.choices[g]}" for g in ("data", "model") if self.choices[g] != self.usual[g]] + parts
        name = ",".join([self.choices["paradigm"], *parts])
        return name if len(name) <= 120 else f"{name[:108]}-{store.content_key(name)[:8]}"

    @property
    def study(self) -> Path:
        """The study's folder: `study`, or <data>-<model>, to which a folder of images adds its name; a model with its
        own true law is named alone."""
        root = self.config["data"].get("root") if self.choices["data"] == "folder" else None
        stem = "" if root is None else "-" + re.sub(r"[^A-Za-z0-9_.+-]+", "_", Path(str(root)).stem)
        data = "" if self.choices["data"] == "law" else f"{self.choices['data']}{stem}-"
        name = self.config["study"] or f"{data}{self.choices['model']}"
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
