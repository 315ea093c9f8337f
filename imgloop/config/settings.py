"""The settings of one chain: a schema for our scalars, the checks, and the names that follow from them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from imgloop import store
from imgloop.conditions import SCHEDULE, schedule_name
from imgloop.config.compose import GROUPS, compose, composed, config_folders, folders_of, options, root
from imgloop.config.fork import Fork
from imgloop.config.messages import sentence
from imgloop.config.parts import Part, build, code_hash, part_of
from imgloop.config.schedule import Schedule
from imgloop.errors import UserError
from imgloop.thresholds import Thresholds

PARTS = ("paradigm", "curation", "correction", "data", "model")  # groups whose choice changes results
MIXING = (  # settings of paradigms, on the top level
    "n_initial",
    "real_fraction",
    "n_real",
    "n_synthetic",
    "budget",
    "edit_fraction",
    "real_weight",
)
# Settings that say where, how far, with what display and with which measures: they change no sample of a chain.
NO_IDENTITY = (
    "seed",
    "generations",
    "study",
    "out",
    "overwrite",
    "threads",
    "features",
    "measure",
    "collapse",
    "display",
    "keep_models",
    "trainer",
    "logger",
)
STARTS = ("scratch", "weights", "weights_and_optimizer")
PLACES = ("pool", "mix")  # where curation selects
DISPLAYS = ("auto", "live", "lines", "none")


def parsed(overrides: Sequence[str] = (), config_dirs: Sequence[str | Path] = ()) -> Settings:
    """Checked settings for command-line style overrides; raises UserError for one that is wrong.

    config_dirs: folders with options of the user's, as --config-dir names them.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    folders = config_folders(config_dirs)
    try:
        cfg = compose(overrides, folders)
    except (HydraException, OmegaConfBaseException, ValueError) as e:  # ValueError: a group given a number or null
        raise UserError(*sentence(e, overrides, folders)) from e
    return checked(cfg, cfg.hydra.runtime.choices, overrides)


def checked(cfg: Any, choices: Mapping[str, Any], overrides: Sequence[str] = ()) -> Settings:
    """Checked settings of a composed config and its choice of options; raises UserError for a setting that is wrong."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        return Settings.of(cfg, dict(choices))
    except OmegaConfBaseException as e:
        raise UserError(*sentence(e, overrides, folders_of(cfg))) from e


def is_schedule(value: Any) -> bool:
    """Whether a setting's value is written {start: , factor: , max: , min: }."""
    return isinstance(value, dict) and "start" in value and set(value) <= set(SCHEDULE)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; a schedule stays a value. Keys that begin with an underscore (_target_)
    are left out."""
    if isinstance(value, dict) and value and not is_schedule(value):
        return {
            k: v
            for key, inner in value.items()
            if not str(key).startswith("_")
            for k, v in flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    return {prefix: value}


@dataclass(frozen=True)
class Settings:
    """One chain's configuration, checked: plain values, the choice of each group, and the names derived from them."""

    config: dict[str, Any]  # the whole config, resolved
    choices: dict[str, str]  # group -> option; of measure, the names with a comma between them
    defaults: dict[str, Any]  # the config of the same choices without any other setting
    usual: dict[str, str]  # group -> option by default, given the experiment
    config_dirs: tuple[Path, ...] = ()  # folders of the user's options

    @classmethod
    def of(cls, cfg: Any, choices: dict[str, Any]) -> Settings:
        """Check a composed config; raises UserError at the first setting that is wrong."""
        from omegaconf import DictConfig, OmegaConf

        folders = folders_of(cfg)
        for group in GROUPS:
            options(group, folders)  # raises for options that share a name
        groups = {g: o for g, o in choices.items() if g in GROUPS and isinstance(o, str)}
        # The trainer is not among them: what it changes shows in the settings that it changes.
        kept = ("experiment", "paradigm", "curation", "correction", "data", "model", "features", "collapse", "logger")
        several = [g for g in kept if g not in choices and isinstance(cfg.get(g), DictConfig)]
        if several:
            raise UserError(
                f"{several[0]} takes one option; several are not combined (-m with {several[0]}=A,B, or "
                "imgloop.sweep, runs each).",
                several[0],
            )
        named = dict(groups)  # with the experiment whose settings go without saying in a condition's name
        if groups.get("experiment"):
            named["experiment"] = root(groups["experiment"], folders)
        chosen = [f"{g}={named[g]}" for g in kept if named.get(g)]
        names = measure_names(cfg, choices, folders)
        chosen += [f"measure=[{','.join(names)}]"] if names else []
        base = composed(*chosen, config_dirs=folders)
        for name in [k for k in base if k != "hydra"]:
            if name not in cfg:
                raise UserError(
                    f"{name} was removed (~{name}): every setting is needed; leave it at its default instead.", name
                )
            group = name in (*GROUPS, "train")
            if group and isinstance(base[name], DictConfig) and not isinstance(cfg[name], DictConfig):
                raise UserError(
                    f"{name}={cfg[name]}: {name} is a group of settings; choose one of its options, or change "
                    f"one with {name}.KEY=VALUE.",
                    name,
                )
        plain: list[Any] = [
            OmegaConf.to_container(
                OmegaConf.masked_copy(c, [k for k in c if k != "hydra"]), resolve=resolve, throw_on_missing=resolve
            )
            for c, resolve in ((cfg, True), (base, False))
        ]
        for values in plain:
            values["measure"] = by_name(values["measure"], names)
        if plain[0]["real_fraction"] is None:
            plain[0]["real_fraction"] = 0
            plain[0]["paradigm"] |= {"real_fraction": 0} if "real_fraction" in plain[0]["paradigm"] else {}
        experiment = named.get("experiment")
        usual = composed(*([f"experiment={experiment}"] if experiment else []), config_dirs=folders)
        if names:
            groups["measure"] = ",".join(names)
        settings = cls(plain[0], groups, plain[1], dict(usual.hydra.runtime.choices), folders)
        settings.check()
        return settings

    # -- parts -------------------------------------------------------------------------------------------------------

    def part(self, group: str) -> Part:
        """The option chosen in a group, as a part that can be built."""
        return part_of(group, self.choices[group], self.config[group], self.config_dirs)

    def build(self, group: str, **more: Any) -> Any:
        """The object that the option of a group describes; raises UserError for one that cannot be built."""
        return build(self.part(group), self.config[group], **more)

    def build_measure(self, name: str) -> Any:
        """The user's measure of this name."""
        return build(self.measures[name], self.config["measure"][name])

    @property
    def measures(self) -> dict[str, Part]:
        """The user's measures that were asked for, by name."""
        nodes = self.config["measure"]
        return {name: part_of("measure", name, node, self.config_dirs) for name, node in nodes.items()}

    @cached_property  # it reads and parses source files, and every generation records it
    def code(self) -> dict[str, str]:
        """A hash of the code of each part that results depend on, by group."""
        return {f"code of {g}={self.choices[g]}": code_hash(self.part(g)) for g in PARTS}

    @property
    def solvable(self) -> bool:
        """Whether the model is a solvable system, which runs replicates side by side; others are trained."""
        return bool(self.config["model"].get("_solvable_"))

    # -- checks ------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        c, known = self.config, set(self.defaults)
        for key in flat(c):
            if key.split(".")[0] not in known:
                raise UserError(
                    f"{key.split('.')[0]} is not a setting; the settings are {', '.join(sorted(known))}.", key
                )
        self.check_solvable()
        for group in (
            "data",
            "model",
            "paradigm",
            "curation",
            "correction",
            "features",
            "collapse",
            "trainer",
            "logger",
        ):
            self.check_group(group, c[group] or {}, self.defaults[group] or {}, self.choices[group])
        for name, node in c["measure"].items():
            if name not in self.defaults["measure"]:
                raise UserError(
                    f"measure.{name} is not a setting: choose measures of your own with measure=NAME, from "
                    "--config-dir.",
                    f"measure.{name}",
                )
            self.check_group(f"measure.{name}", node, self.defaults["measure"][name], name)
        for name, low in (("generations", 1), ("keep_models", 0), ("threads", 1)):
            if c[name] is not None and not low <= c[name] <= 100_000:
                raise UserError(f"{name}={c[name]}: give a whole number of at least {low} and at most 100,000.", name)
        if c["threads"] is not None and c["threads"] > (os.cpu_count() or 1):
            raise UserError(
                f"threads={c['threads']}: this machine has {os.cpu_count()} processors; give at most that many.",
                "threads",
            )
        if c["seed"] < 0:
            raise UserError(f"seed={c['seed']}: give a whole number of at least 0.", "seed")
        if c["display"] not in DISPLAYS:
            raise UserError(f"display={c['display']}: choose one of {', '.join(DISPLAYS)}.", "display")
        if c["study"] is not None and (
            not re.fullmatch(r"[\w.,=+-]+", str(c["study"])) or str(c["study"]).startswith(".")
        ):
            raise UserError(f"study={c['study']}: use letters, digits and any of _.,=+- for the study's name.", "study")
        for name in MIXING:
            if c[name] != self.defaults[name] and name not in c["paradigm"]:
                files = options("paradigm", self.config_dirs)
                users = [o for o, file in files.items() if re.search(rf"^{name}:", file.read_text(), re.M)]
                raise UserError(
                    f"{name} has no effect under paradigm={self.choices['paradigm']}; it is a setting of "
                    f"{', '.join(users)}.",
                    name,
                )
        self.check_fork()
        self.check_selection()
        Thresholds.of(c["collapse"])
        self.images, self.n_samples  # noqa: B018  (read, so that a wrong value is reported now)  # pyright: ignore

    def check_group(self, group: str, node: Mapping[str, Any], default: Mapping[str, Any], option: str) -> None:
        """Raise UserError for a setting that an option does not have, or of another kind than its default."""
        if extra := set(node) - set(default):
            raise UserError(
                f"{group}.{min(extra)} is not a setting of {group.split('.')[0]}={option}; it has "
                f"{', '.join(k for k in default if not k.startswith('_')) or 'none'}.",
                f"{group}.{min(extra)}",
            )
        for key, usual in default.items():
            if key.startswith("_") and node.get(key) != usual:
                raise UserError(
                    f"{group}.{key} cannot be overridden: choose an option of {group.split('.')[0]}.", f"{group}.{key}"
                )
            schedule = group in ("model", "curation") and isinstance(node.get(key), list | dict)
            if not (schedule and self.part(group).ours):  # else the part checks it
                self.check_kind(f"{group}.{key}", node.get(key), usual)

    def check_fork(self) -> None:
        """Raise UserError for a fork that does not exist, or that leaves nothing to do."""
        c = self.config
        if c["fork"] is None or self.solvable:
            return
        fork = Fork.of(c["fork"])
        if c["generations"] <= fork.t + 1:
            raise UserError(
                f"generations={c['generations']} ends with what fork={c['fork']} brings: give generations="
                f"{fork.t + 2} or more.",
                "generations",
            )
        if c["start"] not in STARTS:
            raise UserError(
                "start=FOLDER gives generation 0 a model, and fork=PATH@t brings generation 0 with it: leave one out.",
                "start",
            )

    def check_selection(self) -> None:
        """Raise UserError for a place of selection that does not exist, or where nothing selects."""
        place, curation = self.config["select_from"], self.choices["curation"]
        if place not in PLACES:
            raise UserError(f"select_from={place}: choose one of {', '.join(PLACES)}.", "select_from")
        if self.selects_mix and curation == "none":
            raise UserError(
                "select_from=mix has no effect on curation=none, which selects nothing: choose a curation, such as "
                "curation=random, or leave it out.",
                "select_from",
            )

    @property
    def selects_mix(self) -> bool:
        """Whether curation selects from the whole training set, instead of among the newest samples."""
        return self.config["select_from"] == "mix"

    def check_solvable(self) -> None:
        """Raise UserError for a setting that has no effect on a solvable system: none is ignored silently."""
        c, d, name = self.config, self.defaults, f"model={self.choices['model']}"
        if not self.solvable:
            if self.choices["data"] == "law":
                raise UserError(
                    f"data=law is the true law of a solvable system, such as model=gaussian; {name} learns from "
                    "images: choose another data.",
                    "data",
                )
            return
        for group in ("features", "trainer"):
            if self.choices.get(group) != self.usual[group] or c.get(group) != d.get(group):
                raise UserError(
                    f"{group} has no effect on {name}, which is solved and measures itself: leave it out.", group
                )
        if c["measure"]:
            raise UserError(f"measure has no effect on {name}, which measures itself: leave it out.", "measure")
        for key in ("select_from", "start", "fork", "keep_models", "threads", "train"):
            if c[key] != d[key]:
                raise UserError(f"{key} has no effect on {name}, which is solved in one step: leave it out.", key)

    @staticmethod
    def check_kind(name: str, value: Any, default: Any) -> None:
        """Raise UserError if a part's setting is of another kind than its default; null is left to the part."""
        if default is None or (isinstance(default, str) and default.startswith(("${", "???"))):
            return
        kinds = {
            bool: (bool, "true or false"),
            int: (int | float, "a number"),
            float: (int | float, "a number"),
            str: (str, "text"),
        }
        kind, what = kinds.get(type(default), (object, ""))
        if name == "trainer.compile":
            kind, what = (bool, "true, false or graphs") if value != "graphs" else (str, "")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UserError(
                f"{name}={value}: give {what}, for example {str(default).lower() if kind is bool else default}.", name
            )

    # -- what follows from them --------------------------------------------------------------------------------------

    @property
    def images(self) -> Schedule:
        """Training images that each generation sees."""
        return Schedule.of("train.images", self.config["train"]["images"], 0)

    @property
    def n_samples(self) -> Schedule | None:
        """Samples that each generation draws; None: as many as R."""
        value = self.config["n_samples"]
        return None if value is None else Schedule.of("n_samples", value, 1)

    @property
    def identity(self) -> dict[str, Any]:
        """Every setting that changes results except the seed, flat, by the names of options: never by code. Chains of
        equal identity and seed are equal."""
        kept = flat({k: v for k, v in self.config.items() if k not in NO_IDENTITY})
        kept |= {"trainer.precision": self.config["trainer"]["precision"]} | {g: self.choices[g] for g in PARTS}
        if kept["fork"] is not None:
            kept["fork"] = Fork.of(kept["fork"]).name(self.config["seed"])  # so that each seed may fork its own chain
        kept.pop("data.root", None)  # its content counts, whose hash each generation's record has
        return {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in kept.items()}

    @property
    def condition(self) -> str:
        """The paradigm followed by the settings that are not the defaults; shortened by a hash when long."""
        identity, defaults, parts = self.identity, flat(self.defaults), []
        keys = [k for k in MIXING if k in identity] + [k for k in identity if k not in (*MIXING, *PARTS)]
        for key in keys:
            value, default = identity[key], defaults.get(key)
            interpolated = isinstance(default, str) and default.startswith("${")
            if value != default and not interpolated:
                if is_schedule(value):
                    value = schedule_name(value)
                text = yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("...").strip()
                plain = re.sub(r"[\[\]{} '\"]", "", text)
                safe = re.sub(r"[^A-Za-z0-9_.,=+-]+", "_", plain)
                parts.append(f"{key}={safe}" + (f"-{store.content_key(plain)[:6]}" if safe != plain else ""))
        named = ["curation", "correction"]
        named = (["data", "model"] if self.config["study"] else []) + named  # a study of several data or models
        parts = [f"{g}={self.choices[g]}" for g in named if self.choices[g] != self.usual[g]] + parts
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
        return Path(os.path.expanduser(self.config["out"])) / name.replace("/", "_")

    @property
    def folder(self) -> Path:
        """The chain's folder."""
        return self.study / self.condition / f"seed{self.config['seed']}"


def measure_names(cfg: Any, choices: Mapping[str, Any], config_dirs: Sequence[Path]) -> list[str]:
    """The names of the user's measures that a config asks for, in its order: measure=a, measure=[a,b]."""
    one, nodes = choices.get("measure"), cfg.get("measure") or {}
    if isinstance(one, str):
        return [one]
    if "_target_" in nodes:
        raise UserError(
            "measure=[...] needs measures whose YAML files begin with the line # @package measure.NAME: add it.",
            "measure",
        )
    known = options("measure", config_dirs)
    return [str(k) for k in nodes if k in known]


def by_name(node: Mapping[str, Any] | None, names: Sequence[str]) -> dict[str, Any]:
    """The config of measures by name; that of a single one may lie in the group itself."""
    node = dict(node or {})
    return {names[0]: node} if "_target_" in node and names else node
