"""The two ways a run ends early: a mistake of the user, and a request to stop."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


class UserError(ValueError):
    """A mistake that the user can fix: the message says what was wrong, what is allowed and how to fix it.

    Commands print it without a traceback and exit with status 1; nothing already computed is lost. `setting` names the
    setting that it is about, such as data.n, or is None.
    """

    def __init__(self, message: str, setting: str | None = None):
        super().__init__(message)
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
