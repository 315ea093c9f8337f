"""The two ways a run ends early: the user's mistake, told in one sentence, and the user's wish to stop."""


class UserError(ValueError):
    """A mistake that the user can mend: the message says what was wrong, what is allowed and how to mend it.

    Commands print it without a traceback and exit with status 1; nothing already computed is lost.
    """


class Stopped(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and has saved where it stands; `signal` is the signal's number."""

    def __init__(self, signal: int = 2):
        super().__init__("stopped; the same command continues from here")
        self.signal = signal
