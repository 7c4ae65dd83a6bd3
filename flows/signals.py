"""Remember that a signal asked the flow to stop, and pass it on to the process that is running."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flows.process import Supervised

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """The first signal that asked to stop, if any, and the process it concerns."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._process: Supervised | None = None

    @property
    def name(self) -> str:
        """The signal's name, such as SIGTERM."""
        return self.signal.name if self.signal else "nothing"

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that the signal ended, such as 143 for SIGTERM."""
        return 128 + (self.signal or signal.SIGINT)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: stop the running process; a second Ctrl-C does not wait for it."""
        first, self.signal = self.signal is None, self.signal or signal.Signals(number)
        if self._process is None:
            return
        if first:
            self._process.stop()
            say(f"{self.name}: stopping {self._process.name}, which may save its state first")
        elif number == signal.SIGINT:
            self._process.hurry()
            say(f"SIGINT again: ending {self._process.name} at once")

    @contextmanager
    def reaching(self, process: Supervised) -> Iterator[None]:
        """Pass signals on to `process`, one that came before included."""
        self._process = process
        try:
            if self.signal is not None:
                process.stop()
            yield
        finally:
            self._process = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM and SIGHUP (unless `nohup` ignores it); main thread only."""
        numbers = [
            n for n in STOPPING if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN
        ]
        before = {number: signal.signal(number, self) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def end_with_parent() -> None:
    """Make the end of the process that serves this run, by `kill -9` too, count as SIGTERM."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=follow, daemon=True).start()


def say(sentence: str) -> None:
    """Tell the user; safe in a signal handler, where a buffered stream may not be entered."""
    os.write(sys.stderr.fileno(), f"flows: {sentence}\n".encode())


STOP_REQUEST = StopRequest()  # one a process, as signals are
