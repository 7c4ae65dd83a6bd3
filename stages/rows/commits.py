"""Keep a clean-up from removing versions that a commit is being made from.

A commit of version n + 1 succeeds where no file of that version exists, so a writer that is slow
would succeed below newer versions, and its rows be lost, if n + 1 had been made by another process
and removed meanwhile. Writers therefore share a lock, and whoever removes versions has it alone.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

LOCK = "commits.lock"  # beside the tables
SLOWEST_COMMIT = timedelta(minutes=10)  # of a writer that no lock of this machine can stop


def committing(uri: str) -> AbstractContextManager[None]:
    """Let no version of the table `uri` be removed while versions are added to it."""
    return _locked(uri, fcntl.LOCK_SH)


def removing(uri: str) -> AbstractContextManager[None]:
    """Wait for the commits that are being made, and let none begin."""
    return _locked(uri, fcntl.LOCK_EX)


def removable_after(uri: str) -> timedelta:
    """Return how old a version of the table `uri` must be to be removed."""
    return SLOWEST_COMMIT if "://" in uri else timedelta(0)


def _locked(uri: str, how: int) -> AbstractContextManager[None]:
    return nullcontext() if "://" in uri else _holding(Path(uri).parent / LOCK, how)


@contextmanager
def _holding(path: Path, how: int) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)
