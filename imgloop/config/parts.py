"""Building parts: the class that an option's YAML names, found beside that YAML or among installed packages."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
import textwrap
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from imgloop import contracts
from imgloop.config.compose import CONF, composed, options
from imgloop.errors import Stopped, UserError

CODE = Path(__file__).resolve().parents[1]  # the package
CONTRACTS: dict[str, type] = {
    "data": contracts.Source,
    "model": contracts.Model,
    "paradigm": contracts.Paradigm,
    "curation": contracts.Curation,
    "correction": contracts.Correction,
    "measure": contracts.Measure,
}


@dataclass(frozen=True)
class Part:
    """One option of a group, such as paradigm=window. `file`: its YAML; `ours`: whether it comes with imgloop."""

    group: str
    option: str
    target: str
    file: Path

    @property
    def ours(self) -> bool:
        return self.file.is_relative_to(CONF)

    @property
    def source(self) -> Path | None:
        """The Python file beside the YAML's folder that holds the target; None for a target of an installed package."""
        module = self.target.rpartition(".")[0].split(".")
        for folder in (self.file.parents[1], self.file.parents[2]):
            path = folder.joinpath(*module)
            for candidate in (path.with_suffix(".py"), path / "__init__.py"):
                if not self.ours and module[0] and candidate.is_file():
                    return candidate
        return None

    def __str__(self) -> str:
        name = f"{self.group}={self.option}"
        where = self.source or self.file
        return name if self.ours else f"{name} ({where}: {self.target.rpartition('.')[2]})"

    def error(self, message: str) -> UserError:
        """A UserError about this part."""
        return UserError(f"{self} {message}", self.group)

    def failed(self, doing: str, error: BaseException) -> UserError:
        """The UserError for an exception that the part raised; it names the line of the part's own file."""
        line = ""
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if self.source is not None and Path(frame.filename) == self.source:
                line = f" at line {frame.lineno}"
                break
        text = " ".join(str(error).split()) or "no message"
        return self.error(f"raised {type(error).__name__}{line} when {doing}: {text}")


def part_of(group: str, option: str, node: Mapping[str, Any], config_dirs: Sequence[Path]) -> Part:
    """The part that a config node stands for; raises UserError for a YAML without a target."""
    file = options(group, config_dirs).get(option)
    assert file is not None, (group, option)
    target = node.get("_target_")
    if not isinstance(target, str) or "." not in target:
        raise UserError(
            f"{file} needs _target_: MODULE.CLASS, with MODULE.py in the folder that holds {group}/.", group
        )
    return Part(group, option, target, file)


def build(part: Part, node: Mapping[str, Any], **more: Any) -> Any:
    """The object that a part's config node describes: its class, called with the node's settings and `more`.

    Raises UserError for a class that cannot be imported, for settings that it refuses, and for an object that does not
    offer what its contract asks for.
    """
    settings = {k: v for k, v in node.items() if not k.startswith("_")}
    factory = imported(part)
    try:
        built = factory(**settings, **more)
    except (UserError, Stopped):
        raise
    except Exception as e:
        if part.ours:
            raise
        raise part.failed("it was built", e) from e
    contract = CONTRACTS.get(part.group)
    if not part.ours and contract is not None and not node.get("_solvable_"):  # chain/solved.py checks a system
        check_contract(part, built, contract)
    return built


def check_contract(part: Part, built: Any, contract: type) -> None:
    """Raise UserError, naming what is missing, unless a user's part offers all that its contract asks for."""
    names = {*vars(contract), *contract.__annotations__}
    wanted = sorted(n for n in names if not n.startswith("_") or n == "__call__")
    if members := [n for n in wanted if not _offers(built, n)]:
        raise part.error(
            f"lacks {', '.join(members)}, which imgloop.contracts.{contract.__name__} asks for: add "
            f"{'it' if len(members) == 1 else 'them'}, or make the class a subclass of {contract.__name__}."
        )


def _offers(built: Any, member: str) -> bool:
    """Whether an object has a member of its own, or a default of its contract; methods of contracts without a docstring
    have no default."""
    for cls in type(built).__mro__:
        if member in vars(cls):
            value = vars(cls)[member]
            method = value.fget if isinstance(value, property) else value
            return not (cls in CONTRACTS.values() and isinstance(method, FunctionType) and method.__doc__ is None)
    return member in getattr(built, "__dict__", {})


def imported(part: Part) -> Any:
    """The class or function that a part's target names; raises UserError, naming YAML and target, if there is none."""
    module_name, _, name = part.target.rpartition(".")
    try:
        module = _load(part.source) if part.source is not None else importlib.import_module(module_name)
    except (UserError, Stopped):
        raise
    except Exception as e:
        if part.ours:
            raise
        if isinstance(e, ModuleNotFoundError) and part.source is None:
            raise UserError(
                f"{part.file} names {part.target}, but there is no module {module_name}: put {module_name}.py beside "
                f"the folder {part.group}/, or install the package that has it.",
                part.group,
            ) from e
        raise part.failed("its file was imported", e) from e
    if not callable(getattr(module, name, None)):
        raise UserError(
            f"{part.file} names {part.target}, but {part.source or module_name} has no class or function {name}.",
            part.group,
        )
    return getattr(module, name)


_MODULES: dict[tuple[Path, int, int], ModuleType] = {}


def _load(path: Path) -> ModuleType:
    """The module in a file of the user's, imported under a name of its own, so that two folders may hold files of one
    name. A file that has changed since is imported again."""
    stat = path.stat()
    key = (path, stat.st_mtime_ns, stat.st_size)
    if key not in _MODULES:
        name = f"imgloop_part_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickle look classes up there
        sys.path.insert(0, str(path.parent))  # for further files beside it
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        finally:
            sys.path.remove(str(path.parent))
        _MODULES[key] = module
    return _MODULES[key]


def code_hash(part: Part) -> str:
    """A hash, sixteen hex digits, of the code that a part's results depend on: of a user's Python file, else of what
    the class does now, also if a script has replaced a method. Comments and layout do not count."""
    if part.source is not None:
        return hashlib.sha256(part.source.read_bytes()).hexdigest()[:16]
    target = imported(part)
    functions = [f for cls in inspect.getmro(target) for f in _functions(cls)] if inspect.isclass(target) else [target]
    rooms = [CODE / "models", CODE / "training"] if part.ours and part.group == "model" else []
    code = [_normal(_source(f)) for f in functions]
    code += [_normal(p.read_text()) for room in rooms for p in sorted(room.glob("*.py"))]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:16]


def _functions(cls: type) -> list[FunctionType]:
    """The functions that a class itself defines, in the order of their names."""
    found = []
    for _, value in sorted(vars(cls).items()):
        value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if isinstance(value, FunctionType) and value.__module__ not in ("abc", "typing", "dataclasses"):
            found.append(value)
    return found


def _source(function: FunctionType) -> str:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):  # made by a dataclass, or typed into an interpreter
        return f"{function.__name__!r}, {function.__code__.co_code.hex()!r}, {function.__code__.co_names!r}"


@cache
def _normal(source: str) -> str:
    """Source without comments and layout."""
    try:
        return ast.unparse(ast.parse(source))
    except SyntaxError:  # a lambda inside a longer expression
        return source


def model_of_kind(kind: object, folder: Path, config_dirs: Sequence[Path]) -> contracts.Model:
    """The model that loads generators of a kind, with its default settings; raises UserError for an unknown kind."""
    known = options("model", config_dirs)
    solvable = {name for name in known if "_solvable_" in known[name].read_text()}
    if not isinstance(kind, str) or kind not in known or kind in solvable:
        raise UserError(
            f"{folder} holds a model of kind {kind!r}; known are {', '.join(k for k in known if k not in solvable)}. "
            "For a model of your own, give its folder (--config-dir DIR).",
            "config_dir",
        )
    from omegaconf import OmegaConf

    node = OmegaConf.to_container(composed(f"model={kind}", config_dirs=config_dirs).model, resolve=True)
    assert isinstance(node, dict)
    return build(part_of("model", kind, node, config_dirs), node)  # pyright: ignore[reportArgumentType]
