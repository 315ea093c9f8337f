"""python -m imgloop.study import FOLDER...: results of another program as a study."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from imgloop.errors import UserError, status

COMMANDS = {"import": "imgloop.importing.command"}  # by name, as in imgloop.console: their rooms are above this one
USAGE = (
    "python -m imgloop.study import FOLDER... --real PATH: images of another program become a study; --help explains"
)


def main(arguments: Sequence[str] | None = None) -> int:
    return status("imgloop.study", command, list(sys.argv[1:] if arguments is None else arguments))


def command(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("--help", "-h"):
        return print(USAGE)
    name, *rest = arguments
    if name not in COMMANDS:
        raise UserError(f"{name} is not a command; commands are {', '.join(COMMANDS)}: {USAGE}.")
    import_module(COMMANDS[name]).command(rest)


if __name__ == "__main__":
    sys.exit(main())
