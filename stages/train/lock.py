"""One trainer at a time: an OS lock, taken over from a trainer that whoever started it has left."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from stages.train.progress import say

SHELLS = {"sh", "bash", "dash", "ash", "busybox", "zsh", "ksh", "fish", "csh", "tcsh"}
POLL_SECONDS = 0.1
GRACE_SECONDS = 120.0  # for an orphan to finish its step and save, before it is killed
CLOCK_SECONDS = 1.0  # by which two readings of one process's start may differ


@functools.cache
def launcher() -> dict[str, Any] | None:
    """Describe the nearest ancestor that is no shell: dvc, or whatever started the training.

    The first answer is remembered, because the ancestors of an orphan are no longer its own.
    """
    for process in psutil.Process().parents():
        if process.pid != 1 and process.name() not in SHELLS:
            return _describe(process)
    return None


@contextmanager
def held(path: Path, what: str, grace_seconds: float = GRACE_SECONDS) -> Iterator[int]:
    """Hold the lock file `path`; wait for its holder, or end it when it is an orphan.

    A holder is an orphan when its launcher is gone: `kill -9` of dvc leaves the trainer alive. It
    is asked with SIGTERM to save and exit, and killed when it has not after `grace_seconds`.

    Args:
        path: The lock file; its folder is made.
        what: What the lock is for, as in "process 12 is writing data/train".
        grace_seconds: For an orphan to save.

    Yields:
        The handle; a process that inherits it holds the lock too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _acquire(path, what, grace_seconds)
    try:
        owner = _describe(psutil.Process()) | {"host": socket.gethostname(), "launcher": launcher()}
        os.truncate(handle, 0)
        os.pwrite(handle, json.dumps(owner).encode(), 0)
        yield handle
    finally:
        os.close(handle)


@contextmanager
def free(path: Path) -> Iterator[bool]:
    """Say whether nobody holds the lock file `path`, and keep it so."""
    handle = _try(path)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


def _acquire(path: Path, what: str, grace_seconds: float) -> int:
    """Return a handle that holds the lock."""
    told: tuple[int, bool] | None = None
    deadline = 0.0
    while (handle := _try(path)) is None:
        owner = _owner(path)
        if owner is not None:
            orphaned = _is_orphan(owner)
            if told != (owner["pid"], orphaned):
                told = owner["pid"], orphaned
                deadline = time.monotonic() + grace_seconds
                _announce(owner, what, orphaned)
                if orphaned:
                    _signal(owner, signal.SIGTERM)
            elif orphaned and time.monotonic() > deadline:
                _signal(owner, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    return handle


def _try(path: Path) -> int | None:
    """Return a handle that holds the lock, or None when another process has it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
        return handle
    os.close(handle)  # the file was removed in between: the lock would be on nothing
    return None


def _owner(path: Path) -> dict[str, Any] | None:
    """Read who holds the lock; None when that is not yet written down."""
    try:
        owner: dict[str, Any] = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return owner if owner["host"] != socket.gethostname() or _is_alive(owner) else None


def _is_orphan(owner: dict[str, Any]) -> bool:
    by = owner["launcher"]
    return owner["host"] == socket.gethostname() and by is not None and not _is_alive(by)


def _announce(owner: dict[str, Any], what: str, orphaned: bool) -> None:
    by = owner["launcher"]
    started = "" if by is None else f"; {by['name']} (process {by['pid']}) started it"
    if orphaned:
        say(f"process {owner['pid']} {what}{started} and is gone: asking it to save and exit")
    else:
        say(f"waiting for process {owner['pid']}, which {what}{started}")


def _signal(owner: dict[str, Any], number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(owner["pid"], number)


def _describe(process: psutil.Process) -> dict[str, Any]:
    return {"pid": process.pid, "started": process.create_time(), "name": process.name()}


def _is_alive(described: dict[str, Any]) -> bool:
    """Return whether that very process runs, and not another one with its number."""
    try:
        process = psutil.Process(described["pid"])
        same = abs(process.create_time() - described["started"]) < CLOCK_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
