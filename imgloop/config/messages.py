"""Hydra's and OmegaConf's errors as one sentence that a user can act on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from imgloop.config.compose import GROUPS, Config, compose, options

KINDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false", "String": "text"}
PYTHON_KINDS = {"bool": "Boolean", "int": "Integer", "float": "Float"}
LAUNCHER_EXTRAS = {"joblib": "joblib"}  # launchers of plugins that Hydra does not know before they are installed
SPECIAL = "mismatched input|token recognition|LexerNoViableAlt|no viable alternative|extraneous input"


def sentence(error: Exception, overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> tuple[str, str | None]:
    """A Hydra or OmegaConf error about `overrides`: one sentence that names what is allowed, and the setting that it is
    about, where it is known."""
    deepest: BaseException = error
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    key, text, cause = getattr(deepest, "full_key", None), str(error), str(deepest)
    if match := re.search(r"Could not (?:find|load) 'hydra/launcher/([^']*)'", text):
        return launcher(match[1]), "launcher"
    if match := re.search(r"Could not (?:find|load) '([\w-]+)/([^']*)'", text):
        group, option = match.groups()
        known, folder = options(group, config_dirs), option.rpartition("/")[0]
        beside = [n for n in known if n.startswith(f"{folder}/")]
        names = by_folder(beside) if beside else by_folder(known, variants=False)
        if not names:
            return f"{group}={option}: imgloop has no options of {group}; they come from --config-dir.", group
        return f"{group}={option} does not exist: choose one of {names}.", group
    if "Config group override" in text:
        names = ", ".join(sorted(GROUPS))
        return (
            f"A group ({names}) takes the name of one of its options, for example paradigm=replace; see --help.",
            None,
        )
    if match := re.search(r"Value '(.*?)'(?: of type '\w+')? could not be converted to (\w+)", cause):
        null = ", or null, the default" if getattr(Config, str(key), "") is None else ""
        return f"{key}={match[1]}: give {KINDS.get(match[2], match[2])}{null}.", key
    if match := re.search(r"Value '(.*?)' is not a valid (bool|int|float)", cause):
        return f"{key}={match[1]}: give {KINDS[PYTHON_KINDS[match[2]]]}.", key
    if "Missing mandatory value" in cause or ("is missing" in cause and key):
        return f"{key} has no value: give {key}=...", key
    if match := re.search(r"override '(.*)'\s*missing EQUAL", text):
        return f"{match[1]!r} is not a setting: write settings as key=value, for example paradigm=replace.", match[1]
    if re.search(SPECIAL, text):
        return (
            "A value holds a character that means something to Hydra (such as = , : ~ or a space): put the value in "
            "quotes inside the shell's, for example 'start=\"outputs/a,b=1/seed0/gen001\"'."
        ), None
    if match := re.search(r"Ambiguous value for argument '(.*?)'", text):
        name = match[1].split("=")[0]
        return f"{match[1]} gives several values: add -m to run them all, or write a list as key=[a,b].", name
    match = re.search(r"Could not override '([\w./@]+)'", text)
    key = key or (match and match[1])
    if key == "measure":
        return "measure takes names of your own measures, from --config-dir: measure=NAME or measure=[A,B].", key
    if key and (siblings := allowed(key, overrides, config_dirs)):
        if key.rsplit(".", 1)[-1] in siblings and "merge DictConfig with ListConfig" in cause:
            return (
                f"{key} is a schedule {{start: , factor: , max: , min: }} here, and a list cannot replace it: give "
                "such a schedule, or one number."
            ), key
        if key.rsplit(".", 1)[-1] in siblings:
            return f"{key} cannot take this value: {' '.join(cause.split('full_key')[0].split())}.", key
        others = having(key, config_dirs)
        close = [] if others else get_close_matches(key.rsplit(".", 1)[-1], siblings, 1)
        hint = f"; did you mean {close[0]}?" if close else "."
        named = " and ".join(f"{key.partition('.')[0]}={o}" for o in others)
        elsewhere = f" It is a setting of {named}." if others else ""
        return f"{key} is not a setting{hint} Allowed here: {', '.join(siblings)}.{elsewhere}", key
    if key and "." in key:
        return f"{key} is not a setting: the option of {key.rsplit('.', 1)[0]} that is chosen has none.", key
    return " ".join(text.split()), key


def launcher(option: str) -> str:
    """The sentence for a launcher that does not exist, or whose package is not installed."""
    from hydra.core.config_store import ConfigStore

    if option in LAUNCHER_EXTRAS:
        extra = LAUNCHER_EXTRAS[option]
        return f"hydra/launcher={option} needs the extra {extra}: pip install 'imgloop[{extra}]'."
    others = (Path(name).stem for name in ConfigStore.instance().list("hydra/launcher"))
    names = ", ".join(sorted({*others, *options("hydra/launcher"), *LAUNCHER_EXTRAS}))
    return f"hydra/launcher={option} does not exist: choose one of {names}."


def allowed(key: str, overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> list[str]:
    """The settings beside `key` in the default config of the options that `overrides` choose."""
    from omegaconf import DictConfig

    chosen = [o for o in overrides if o.split("=")[0] in GROUPS and "=" in o and "," not in o]
    try:
        node = compose(chosen, config_dirs)
    except Exception:  # an option is wrong as well: use the settings of the default options
        node = compose()
    for part in key.split(".")[:-1]:
        node = node.get(part) if isinstance(node, Mapping | DictConfig) else None
    keys = list(node) if isinstance(node, Mapping | DictConfig) else []
    return [str(k) for k in keys if k != "hydra" and not str(k).startswith("_")]


def having(key: str, config_dirs: Sequence[Path]) -> list[str]:
    """The options of a setting's group that have a setting of its name, for GROUP.NAME."""
    group, _, name = key.partition(".")
    known = options(group, config_dirs) if group in GROUPS and name else {}
    return sorted(o for o, path in known.items() if re.search(rf"^{re.escape(name)}:", path.read_text(), re.M))


def by_folder(names: Iterable[str], variants: bool = True) -> str:
    """Options in a row; those in folders once a folder, and those in a folder that is named as an option after it:
    analytic/(gaussian, kde), study/(digits, realistic[/no_filter, /real_only]); variants=False: realistic[/...]."""
    known = sorted(names)
    folders: dict[str, list[str]] = {}
    for name in known:
        folders.setdefault(name.rpartition("/")[0], []).append(name)

    def shown(name: str) -> str:
        below = ", ".join(f"/{shown(n)}" for n in folders.get(name, ()))
        below = below if variants or not below else "/..."
        return name.rpartition("/")[2] + (f"[{below}]" if below else "")

    rows = {f: ", ".join(map(shown, members)) for f, members in folders.items() if f not in known}
    return ", ".join(f"{f}/({row})" if f else row for f, row in rows.items())
