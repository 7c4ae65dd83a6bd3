"""Encode again, in a child process, the rows that a manifest names and this store lacks.

No stage imports another, so whoever reads a manifest starts the stage that wrote it with --fill.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # prctl(2)


def fill(manifest: Path, stage: str, root: str, num_missing: int) -> None:
    """Run `python -m stages.<stage> --fill`; its progress and last line go to stderr.

    Raises:
        ValueError: the stage failed; it has said why.
    """
    own = str(os.getpid())
    command = [sys.executable, "-m", f"stages.{stage}", "--fill", "--parent", own]
    sys.stderr.write(f"{manifest}: {num_missing} rows are not in {root}: encoding them\n")
    child = subprocess.Popen(command, stdout=2, env=os.environ | {"DIFFBASE_STORE": root})
    try:
        code = child.wait()
    except BaseException:  # interrupted: leave no orphan
        child.terminate()
        child.wait()
        raise
    if code:
        raise ValueError(
            f"{manifest}: {num_missing} of its rows are missing in {root} and could not be encoded"
            f" again for the reason above: mend it, or run `dvc repro --force {stage}`"
        )


def is_asked_for(stage: str) -> bool:
    """Read the command line of an encoding stage: whether it is to fill the store only."""
    parser = argparse.ArgumentParser(prog=f"python -m stages.{stage}")
    parser.add_argument(
        "--fill",
        action="store_true",
        help="encode the rows that the existing manifest names and the store lacks; write no file",
    )
    parser.add_argument("--parent", type=int, metavar="PID", help="end when this process does")
    asked = parser.parse_args()
    if asked.parent is not None:
        end_with(asked.parent)
    return bool(asked.fill)


def end_with(parent: int) -> None:
    """Leave no orphan when the stage that waits for the rows dies, however it dies (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before
        sys.exit(1)
