"""What a process that prepares items does first; it imports neither torch nor lance."""

from __future__ import annotations

import signal

from stages.rows.fill import end_with


def begin(parent: int) -> None:
    """Leave Ctrl-C to the stage, which ends its workers, and end when the stage is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)
