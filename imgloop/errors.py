"""The ways a run ends early: a mistake of the user, a refusal of the system, and a request to stop."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

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


KEPT = "Finished results are kept; run the same command again."
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def refused(error: OSError | MemoryError, path: str | Path | None = None) -> UserError | None:
    """What the system refused, as a sentence; None for an error that the user cannot fix. path: what was written, else
    the file that the error names was read or written."""
    if isinstance(error, MemoryError):
        return UserError(f"There is not enough memory. Free some, or lower n_samples or data.n. {KEPT}")
    place, number = path if path is not None else error.filename, error.errno
    if place is None or number is None:
        return None
    if number in FULL:
        return disk_full(Path(place))
    if number == errno.EIO:
        return UserError(
            f"{place} could not be written: the disk reports an error ({error.strerror}). Finished results are kept; "
            "check the disk and run the same command again."
        )
    if number in FORBIDDEN:
        what = "read or written" if path is None else "written"
        way = "" if path is None else "give another out=FOLDER, or "
        return UserError(f"{place} cannot be {what} ({error.strerror}): {way}fix its permissions.", "out")
    if number in (errno.EISDIR, errno.ENOTEMPTY):
        return UserError(f"{place} cannot be written, since a folder has its name: move that away.", "out")
    if number == errno.EFBIG:
        return UserError(f"{place} is larger than files may be here: raise the limit (ulimit -f). {KEPT}", "out")
    if number in (errno.EMFILE, errno.ENFILE):
        return UserError(f"{place} cannot be opened: too many files are open. Raise the limit (ulimit -n). {KEPT}")
    return None


def existing(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return path


def disk_full(path: Path) -> UserError:
    """The error for a full disk at `path`."""
    return UserError(
        f"The disk is full: {path} could not be written ({shutil.disk_usage(existing(path)).free >> 20} MiB free). "
        "Finished results are kept; free some space and run the same command again."
    )


def status(name: str, command: Callable, *arguments) -> int:
    """Run a command and return its exit status; a UserError, or what the system refuses, is printed as one sentence
    after the command's `name`."""
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
    except (OSError, MemoryError) as e:
        if (error := refused(e)) is None:
            raise
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0
