"""Say in one sentence what a failing disk or a damaged file did to a table of rows."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pyarrow as pa

FULL = re.compile(r"os error (27|28|122)\b|Errno (27|28|122)\b")  # EFBIG, ENOSPC, EDQUOT
CLEANED = "Not found:"  # in what Lance says of a file of a version that a clean-up removed
ABSENT = "/_versions,"  # what it misses where no table was ever written
LANCE = "LanceError("  # in what Lance says of files, told apart from what it says of arguments
SHOWN = 160  # characters of the library's own message
WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds before what a clean-up disturbed is tried again

T = TypeVar("T")


class DamagedError(ValueError):
    """A table whose files cannot be read, or hold other values than were written."""


def undisturbed(action: Callable[[], T]) -> T:
    """Do `action`, again when a clean-up removed the version of the table that it began with.

    `action` opens the newest version itself, and doing it twice is the same as doing it once.
    """
    for seconds in WAITS:
        try:
            return action()
        except (OSError, ValueError) as error:
            if CLEANED not in str(error) or ABSENT in str(error):
                raise
            time.sleep(seconds)
    return action()


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turn what Lance raises while it reads `uri` into one sentence.

    Raises:
        DamagedError: a file is damaged, gone or not to be read.
    """
    try:
        yield
    except DamagedError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise damaged(uri, _reason(error)) from error
    except ValueError as error:
        if LANCE not in str(error):
            raise
        raise damaged(uri, _reason(error)) from error


@contextmanager
def writing(uri: str) -> Iterator[None]:
    """Turn what Lance raises while it writes `uri` into one sentence.

    Raises:
        ValueError: the disk is full; all rows written before are intact.
        DamagedError: a file that the write must read is damaged.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if FULL.search(str(error)):
            raise ValueError(
                f"{uri}: the disk is full, so the last batch of rows was not written (all earlier"
                " rows are intact): free some space, for example with `python -m stages.store gc`,"
                " or point data.store to another disk, and run the same command again"
            ) from error
        raise damaged(uri, _reason(error)) from error


def damaged(uri: str, reason: str) -> DamagedError:
    """Return the error that says how to mend `uri`."""
    return DamagedError(
        f"{uri} cannot be read ({reason}): run `python -m stages.store check --mend`, which removes"
        " the damaged rows; they are encoded again where they are needed"
    )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split("/home/runner/")[0].split("/rustc/")[0].split())
    return text[:SHOWN].rstrip(" ,")
