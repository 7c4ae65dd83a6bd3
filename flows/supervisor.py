"""Run one command in a process group of its own, and let nothing of it outlive its owner.

Started as a script by `flows.process`, one per command. The owner keeps the other end of this
process's stdin; the kernel closes it when the owner ends, by `kill -9` too. Then, or on a signal,
the command's group gets SIGINT (what Ctrl-C would send: a trainer saves its checkpoint, and DVC
records nothing), after the grace period every process of it SIGTERM, at last SIGKILL.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import IO

import psutil

PATIENCE = 10.0  # seconds between SIGTERM and SIGKILL, and for SIGKILL to act
POLL = 0.05  # seconds between two looks at what still lives
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

Events = queue.SimpleQueue[
    str
]  # "stop": asked by a signal; "gone": the owner; "ended": the command


def main() -> int:
    """Run `supervisor.py <grace seconds> <command...>` and return the command's exit code."""
    grace, command = float(sys.argv[1]), sys.argv[2:]
    adopt_orphans()
    events: Events = queue.SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A handler, unlike an inherited "ignore", is reset to the default in the command.
        signal.signal(number, lambda *_: events.put("stop"))
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert child.stdout is not None
    pipe = child.stdout
    output = in_thread(lambda: forward(pipe))
    in_thread(lambda: watch_owner(events))
    in_thread(lambda: watch_child(child, events))
    first = events.get()
    if first != "ended" or left_behind(child.pid):
        end(child.pid, grace, events)
    code = child.wait()
    output.join(timeout=PATIENCE)
    return code if code >= 0 else 128 - code


def in_thread(work: Callable[[], None]) -> threading.Thread:
    """Start `work` in a thread that does not keep this process alive."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs, so that none can hide (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def forward(output: IO[bytes]) -> None:
    """Pass the command's output on; an owner that is gone must not break a command's last words."""
    owner_reads = True
    while chunk := os.read(output.fileno(), 1 << 16):
        while owner_reads and chunk:
            try:
                chunk = chunk[os.write(sys.stdout.fileno(), chunk) :]
            except BrokenPipeError:
                owner_reads = False


def watch_owner(events: Events) -> None:
    """Wait until the owner's end of stdin is closed."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    events.put("gone")


def watch_child(child: subprocess.Popen[bytes], events: Events) -> None:
    """Wait until the command itself has ended."""
    child.wait()
    events.put("ended")


def left_behind(group: int) -> bool:
    """Tell whether the command's group outlived it, as when DVC alone was killed."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def end(group: int, grace: float, events: Events) -> None:
    """Stop the group and every descendant: ask, insist, kill; one more "stop" skips the waiting."""
    for number, patience in (
        (signal.SIGINT, grace),
        (signal.SIGTERM, PATIENCE),
        (signal.SIGKILL, PATIENCE),
    ):
        # Only the group is asked; what left it is left to the group, or gets SIGTERM after it.
        list_living = members if number == signal.SIGINT else living
        send(number, group, list_living(group))
        deadline = time.monotonic() + patience
        while list_living(group):
            remaining = min(POLL, deadline - time.monotonic())
            if remaining <= 0 or told_to_hurry(events, remaining):
                break
        if not living(group):
            return


def told_to_hurry(events: Events, seconds: float) -> bool:
    """Wait so long at most; True if one more "stop" came."""
    with contextlib.suppress(queue.Empty):
        return events.get(timeout=seconds) == "stop"
    return False


def send(number: signal.Signals, group: int, pids: list[int]) -> None:
    """Signal the group as the terminal would, then those of the processes that are not in it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) != group:
                os.kill(pid, number)


def members(group: int) -> list[int]:
    """List the running processes of the command's session."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == group and runs(pid):
                found.append(pid)
    return found


def living(group: int) -> list[int]:
    """List the running processes of the command's session and all our other descendants."""
    descendants = {process.pid for process in psutil.Process().children(recursive=True)}
    return [pid for pid in descendants.union(members(group)) if runs(pid)]


def runs(pid: int) -> bool:
    """Tell a running process from one that is gone, or has ended and was not waited for."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    sys.exit(main())
