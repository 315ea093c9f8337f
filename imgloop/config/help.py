"""--help: groups, options and settings with the comments of their YAML files."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import yaml

from imgloop.config.compose import CONF, GROUPS, options
from imgloop.errors import UserError

LAUNCHER = "hydra/launcher"  # Hydra's own default and plugins have no file of ours
WHOLE = "experiment"  # the group whose keys are those of the whole config
LAUNCHER_COMMENT = (
    "with -m, where the chains of a sweep run; by default basic, one after another in this process; also joblib, with "
    "the extra of this name"
)
INTRODUCTION = """\
imgloop: image generators trained on their own output, generation after generation.

  python -m imgloop paradigm=accumulate                                one chain
  python -m imgloop -m paradigm=replace,accumulate 'seed=range(0,4)'   compare paradigms
  python -m imgloop -m ... hydra/launcher=parallel                     on all cores or GPUs; clusters: docs/cluster.md
  python -m imgloop.plan -m paradigm=replace,accumulate                what that will cost, before it starts
  python -m imgloop.report outputs/STUDY                               one page: profile, curves, samples
  python -m imgloop.measure STUDY features=pixels                      measure stored samples again
  python -m imgloop --config-dir DIR paradigm=NAME                     parts of your own in DIR (docs/extending.md)
  python -m imgloop GROUP=OPTION --help                                the settings of one option, such as model=gan
"""
END = (
    "To resume an interrupted run, run the same command again; a finished run is left unchanged. --version prints the "
    "version, --hydra-help the options of Hydra."
)


@dataclass(frozen=True)
class Setting:
    """A setting of a YAML file: its dotted key, its value as written, the comment on its line, and `above`, the comment
    lines before it."""

    key: str
    value: str
    comment: str
    above: str


@dataclass(frozen=True)
class File:
    """A YAML file of conf/ or of a user's folder: what its first comment says, its settings, and `defaults`, the
    options that it chooses, each as a setting."""

    description: str
    settings: tuple[Setting, ...]
    defaults: tuple[Setting, ...]

    @classmethod
    def read(cls, path: Path) -> File:
        """Read a file; keys that begin with an underscore (_target_) are left out."""
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        leading = []
        for line in lines:
            if not line.startswith("#"):
                break
            leading += [] if line.startswith("# @package") else [line.lstrip("#")]
        root = yaml.compose(text)
        found = list(_settings(root, lines)) if isinstance(root, yaml.MappingNode) else []
        target = next((s.comment for s in found if s.key == "_target_"), "")
        chosen = [s for s in found if s.key.startswith("defaults/")]
        shown = [s for s in found if s not in chosen and not s.key.split(".")[-1].startswith("_")]
        described = _joined(leading) or target
        return cls(
            described[:1].upper() + described[1:],
            tuple(shown),
            tuple(Setting(s.key.removeprefix("defaults/"), s.value, s.comment, s.above) for s in chosen),
        )

    @property
    def line(self) -> str:
        """The first sentence of the description."""
        return next((self.description[: i + 1] for i in _ends(self.description)), self.description)


def _ends(text: str) -> Iterator[int]:
    """The places where sentences of a text end."""
    return (i for i in range(len(text) - 2) if text[i] == "." and text[i + 1] == " " and text[i + 2].isupper())


def _joined(lines: Sequence[str]) -> str:
    return " ".join(line.strip() for line in lines).strip()


def _settings(root: yaml.MappingNode, lines: Sequence[str], prefix: str = "") -> Iterator[Setting]:
    """The settings below a YAML node, in the order of the file; those of its defaults list as defaults/GROUP."""
    for key, value in root.value:
        name = f"{prefix}{key.value}"
        if name == "defaults" and isinstance(value, yaml.SequenceNode):
            for entry, option in (n for item in value.value if isinstance(item, yaml.MappingNode) for n in item.value):
                group = entry.value.removeprefix("override ").lstrip("/").partition("@")[0]
                yield _setting(f"defaults/{group}", entry, option, lines)
        elif isinstance(value, yaml.MappingNode) and not value.flow_style and value.value:
            yield from _settings(value, lines, f"{name}.")
        else:
            yield _setting(name, key, value, lines)


def _setting(name: str, key: yaml.Node, value: yaml.Node, lines: Sequence[str]) -> Setting:
    row, start, end = key.start_mark.line, value.start_mark, value.end_mark
    single = start.line == end.line == row
    written = lines[row][start.column : end.column].strip() or "null" if single else "..."
    comment = lines[row][(end if single else key.end_mark).column :].partition("#")[2].strip()
    above = []
    while row > 0 and lines[row - 1].lstrip().startswith("#"):
        row -= 1
        above.insert(0, lines[row].lstrip().lstrip("#"))
    whole_file = row == 0 or lines[row].startswith("# @package")  # that comment describes the file
    return Setting(name, written, comment, "" if whole_file else _joined(above))


def all_options(config_dirs: Sequence[Path] = ()) -> dict[str, dict[str, Path]]:
    """The options of every group, launchers included, by group and name, with their YAML files."""
    return {**{g: options(g, config_dirs) for g in GROUPS}, LAUNCHER: options(LAUNCHER)}


def text(arguments: Sequence[str], config_dirs: Sequence[Path] = ()) -> str:
    """What --help prints: of the options that `arguments` choose (GROUP=OPTION) the settings, else of all.

    Raises UserError for an option that does not exist.
    """
    groups = all_options(config_dirs)
    given = [(g, value.strip("[]")) for g, _, value in (a.partition("=") for a in arguments) if g in groups]
    chosen = [(g, o.strip()) for g, value in given if value for o in value.split(",")]
    known = File.read(CONF / "config.yaml")
    if chosen:
        return "\n".join(_option(group, option, groups, known) for group, option in chosen)
    comments = {s.key: s.comment for s in known.defaults}
    usual = {s.key: s.value for s in known.defaults}
    parts = [INTRODUCTION, "== Groups: choose an option with group=option (* is the default) =="]
    for group, files in groups.items():
        parts.append(_wrapped(f"{group}: {comments.get(group, LAUNCHER_COMMENT)}"))
        rows = [(f"{'*' if o == usual.get(group) else ' '} {o}", File.read(path).line) for o, path in files.items()]
        parts.append(_table(rows) + "\n" if rows else "")
    own = [s for s in known.settings if not s.key.startswith("hydra.")]
    parts += ["== Settings: change one with key=value ==", _shown(own)]
    for group, option in usual.items():
        settings = File.read(groups[group][option]).settings if option in groups.get(group, ()) else ()
        own = [Setting(f"{group}.{s.key}", s.value, s.comment, s.above) for s in settings if "${" not in s.value]
        if own:
            parts += [f"\n== Settings of {group}={option} ==", _shown(own)]
    return "\n".join([*parts, "", _wrapped(END)])


def _option(group: str, option: str, groups: dict[str, dict[str, Path]], known: File) -> str:
    """The help of one option: what it is, what it chooses, and its settings."""
    if option not in groups[group]:
        close = get_close_matches(option, groups[group], 1)
        hint = f"did you mean {close[0]}? There are" if close else "choose one of"
        names = ", ".join(sorted(groups[group])) or "none; they come from --config-dir"
        raise UserError(f"{group}={option} does not exist: {hint} {names}.", group)
    file = File.read(groups[group][option])
    parts = [_wrapped(f"{group}={option}: {file.description}")]
    if file.defaults:
        parts.append(_wrapped("It chooses " + " ".join(f"{s.key}={s.value}" for s in file.defaults) + "."))
    shown = settings_of(group, file, known, groups)
    heading = "Settings, as the experiment gives them:" if group == WHOLE else "Settings, with their defaults:"
    return "\n".join([*parts, *([heading, _shown(shown)] if shown else ["It has no settings."]), ""])


def settings_of(group: str, file: File, known: File, groups: dict[str, dict[str, Path]]) -> list[Setting]:
    """The settings of an option's file by their dotted keys; one that stands for a setting of the top level
    (${n_initial}) is that setting, and one of an experiment without a comment has that of the option it changes.
    known: conf/config.yaml. groups: as of `all_options`."""
    top = {s.key: s for s in known.settings}
    prefix = "" if group == WHOLE else "hydra.launcher." if group == LAUNCHER else f"{group}."
    shown = []
    for s in file.settings:
        through = s.value.removeprefix("${").removesuffix("}")
        own = Setting(f"{prefix}{s.key}", s.value, s.comment, s.above)
        shown.append(top[through] if s.value.startswith("${") and through in top else own)
    if group == WHOLE:
        for chosen in file.defaults:
            if path := groups.get(chosen.key, {}).get(chosen.value):
                top |= {s.key: s for s in settings_of(chosen.key, File.read(path), known, groups)}
        shown = [replace(s, comment=s.comment or (top[s.key].comment if s.key in top else "")) for s in shown]
    return shown


def _shown(settings: Sequence[Setting]) -> str:
    """Settings as a table; comments above some of them divide it."""
    parts, rows = [], []
    for s in settings:
        if s.above and rows:
            parts, rows = [*parts, _table(rows)], []
        parts += [_wrapped(f"  # {s.above}")] if s.above else []
        rows.append((f"  {s.key}={s.value}", s.comment))
    return "\n".join([*parts, _table(rows)])


def _width() -> int:
    return min(max(shutil.get_terminal_size((120, 24)).columns, 60), 140)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _width(), break_long_words=False, break_on_hyphens=False)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns, the second wrapped."""
    left = min(max(len(name) for name, _ in rows), 34) + 2
    lines = []
    for name, comment in rows:
        wrapped = textwrap.wrap(comment, _width() - left, break_on_hyphens=False) or [""]
        if len(name) + 2 > left:
            wrapped.insert(0, "")
        first, *more = wrapped
        lines += [f"{name:<{left}}{first}".rstrip(), *(" " * left + line for line in more)]
    return "\n".join(lines)
