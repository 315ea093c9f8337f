"""Hydra's and OmegaConf's errors as one sentence that a user can act on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from imgloop.config.settings import CONF, compose

KINDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false", "String": "text"}


def sentence(error: Exception, overrides: Sequence[str]) -> str:
    """A Hydra or OmegaConf error about `overrides`, as one sentence that names what is allowed."""
    deepest = error
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    key, text, cause = getattr(deepest, "full_key", None), str(error), str(deepest)
    if match := re.search(r"Could not find '([\w-]+)/([^']*)'", text):
        group = CONF / match[1]  # experiments lie in folders of it
        options = sorted(p.relative_to(group).with_suffix("").as_posix() for p in group.rglob("*.yaml"))
        return f"{match[1]}={match[2]} does not exist: choose one of {', '.join(options)}."
    if "Config group override" in text:
        groups = ", ".join(sorted(p.name for p in CONF.iterdir() if p.is_dir()))
        return f"A group ({groups}) takes the name of one of its options, for example paradigm=replace; see --help."
    if match := re.search(r"Value '(.*?)'(?: of type '\w+')? could not be converted to (\w+)", cause):
        return f"{key}={match[1]}: give {KINDS.get(match[2], match[2])}."
    if match := re.search(r"Value '(.*?)' is not a valid (bool|int|float)", cause):
        return f"{key}={match[1]}: give {KINDS[{'bool': 'Boolean', 'int': 'Integer', 'float': 'Float'}[match[2]]]}."
    if "Missing mandatory value" in cause or ("is missing" in cause and key):
        return f"{key} has no value: give {key}=..."
    if match := re.search(r"override '(.*)'\s*missing EQUAL", text):
        return f"{match[1]!r} is no setting: write settings as key=value, for example paradigm=replace."
    if re.search("mismatched input|token recognition|LexerNoViableAlt|no viable alternative|extraneous input", text):
        return (
            "A value holds a character that means something to Hydra (such as = , : ~ or a space): put the value in "
            "quotes inside the shell's, for example 'start=\"outputs/a,b=1/seed0/gen001\"'."
        )
    if match := re.search(r"Ambiguous value for argument '(.*?)'", text):
        return f"{match[1]} gives several values: add -m to run them all, or write a list as key=[a,b]."
    match = re.search(r"Could not override '([\w./@]+)'", text)
    key = key or (match and match[1])
    if key and (siblings := allowed(key, overrides)):
        if key.rsplit(".", 1)[-1] in siblings:
            return f"{key} cannot take this value: {' '.join(cause.split('full_key')[0].split())}."
        close = get_close_matches(key.rsplit(".", 1)[-1], siblings, 1)
        hint = f"; did you mean {close[0]}?" if close else "."
        return f"{key} is not a setting{hint} Allowed here: {', '.join(siblings)}."
    if key and "." in key:
        return f"{key} is not a setting: what {key.rsplit('.', 1)[0]} stands for here has none."
    return " ".join(text.split())


def allowed(key: str, overrides: Sequence[str]) -> list[str]:
    """The settings beside `key` in the default config of the options that `overrides` choose."""
    groups = {p.name for p in CONF.iterdir() if p.is_dir()}
    chosen = [o for o in overrides if o.split("=")[0] in groups and "=" in o and "," not in o]
    try:
        node = compose(chosen)
    except Exception:  # an option is wrong as well: the settings of the default options are the best that can be said
        node = compose()
    for part in key.split(".")[:-1]:
        node = node.get(part) if hasattr(node, "get") else None
    return [k for k in node if k not in ("hydra", "_target_")] if hasattr(node, "keys") else []
