"""The two ways a run ends early: a mistake of the user, and a request to stop."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable

HIDDEN = ("Cc", "Cf", "Zl", "Zp", "Cs")  # categories of characters that a terminal or a page acts on, not shows


def printable(text: str) -> str:
    """Text from a file or folder as it may be printed: control characters (escape sequences, changes of direction) are
    spelt out, such as \\x1b."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in HIDDEN else c for c in text)


def printable_lines(text: str) -> str:
    """`printable` text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


class UserError(ValueError):
    """A mistake that the user can fix: the message says what was wrong, what is allowed and how to fix it.

    Commands print it without a traceback and exit with status 1; nothing already computed is lost. `setting` names the
    setting that it is about, such as data.n, or is None.
    """

    def __init__(self, message: str, setting: str | None = None):
        super().__init__(printable(message))
        self.setting = setting


class Stopped(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and has saved its state; `signal` is the signal's number."""

    def __init__(self, signal: int = 2):
        super().__init__("stopped; the same command continues from here")
        self.signal = signal


def status(name: str, command: Callable, *arguments) -> int:
    """Run a command and return its exit status; a UserError is printed as one sentence after the command's `name`."""
    try:
        command(*arguments)
    except UserError as e:
        print(f"{name}: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0
