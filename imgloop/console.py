"""imgloop COMMAND ...: the console script, the same commands as the `python -m imgloop` forms."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from importlib import import_module

COMMANDS = {
    "run": ("imgloop.__main__", "train chains and measure them: imgloop run paradigm=accumulate"),
    "plan": ("imgloop.plan.__main__", "what a run or a sweep will cost, before it starts"),
    "report": ("imgloop.report.__main__", "a study as one page, with tables and figures"),
    "measure": ("imgloop.measure", "measure stored samples again"),
    "metrics": ("imgloop.metrics.__main__", "scores of generated sets of images, made by imgloop or not"),
    "study": ("imgloop.study.__main__", "results of another program as a study: imgloop study import FOLDER"),
    "collapse": ("imgloop.collapse.__main__", "eight verdicts on model collapse, from a study or a CSV table"),
}
FLAGS = {"run": "python -m imgloop", **{name: f"python -m imgloop.{name}" for name in COMMANDS if name != "run"}}
USAGE = "\n".join(
    [
        "imgloop COMMAND ...; imgloop COMMAND --help explains one, imgloop --version prints the version.",
        "",
        *(f"  {name:<10}{text}  ({FLAGS[name]})" for name, (_, text) in COMMANDS.items()),
    ]
)


def main() -> int | None:
    """Run the command that the first argument names, with the arguments after it; its exit status."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(USAGE)
        return 0
    if name == "--version":
        name, rest = "run", ["--version"]
    if name not in COMMANDS:
        setting = "=" in name or name.startswith("-")
        meant = ["run", name] if setting else get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean imgloop {' '.join([*meant, *rest])}? " if meant else ""
        print(f"imgloop: {name} is not a command: {hint}Commands are {', '.join(COMMANDS)}.", file=sys.stderr)
        return 1
    sys.argv = [f"imgloop {name}", *rest]
    return import_module(COMMANDS[name][0]).main()


if __name__ == "__main__":
    sys.exit(main())
