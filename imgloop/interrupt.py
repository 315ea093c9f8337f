"""Graceful stopping: Ctrl-C and SIGTERM set a flag that a fit checks; anything else ends at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from imgloop.errors import Stopped, UserError

ORPHANED = 60.0  # seconds that a worker without parent has to save its state


def end_with_parent() -> None:
    """In a worker of a parallel launcher: ask this process to stop once the process that started it has ended, and end
    it where that takes too long. Without this, workers of a killed sweep train on and hold its chains."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHANED)
        os._exit(128 + signal.SIGTERM)

    if not any(t.name == "imgloop-parent" for t in threading.enumerate()):
        threading.Thread(target=watch, name="imgloop-parent", daemon=True).start()


class Interrupt:
    """A stop request: `stop()` is true once a signal has come.

    A fit that calls it now and then saves its state and raises Stopped itself. If nothing has called it for a while,
    and at a second signal, Stopped is raised at once, which is safe, since all writes are atomic.
    """

    PATIENCE = 20.0  # seconds since the last call

    def __init__(self):
        self.signal: int | None = None
        self.last_call = time.monotonic()  # patient at first: imports must not be interrupted

    def __call__(self) -> bool:
        self.last_call = time.monotonic()
        return self.signal is not None

    def end_of_fit(self) -> None:
        """Nothing calls any more: raise Stopped for a signal that has come, and at once for the next."""
        self.last_call = -self.PATIENCE
        if self.signal:
            raise Stopped(self.signal)

    def handle(self, number: int, frame) -> None:
        first, self.signal = self.signal is None, self.signal or number
        if not first or time.monotonic() - self.last_call > self.PATIENCE:
            raise Stopped(self.signal)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle this process's signals meanwhile; in a thread, which signals do not reach, there are none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        if callable(signal.getsignal(signal.SIGUSR2)):  # of a queue, which takes it as the sign to queue the job again
            numbers.append(signal.SIGUSR2)
        before = {s: signal.signal(s, self.handle) for s in numbers}
        try:
            yield
        except Exception as e:  # Stopped, or the error of a library that the signal interrupted
            if self.signal is None or isinstance(e, UserError):
                raise
            raise Stopped(self.signal) from None
        finally:
            for s, old in before.items():
                signal.signal(s, old)
