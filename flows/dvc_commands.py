"""The two things that flows ask DVC, each a process of its own that a signal can stop."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from flows import verdicts
from flows.process import Supervised, Transcript
from flows.signals import STOP_REQUEST


def repro(addressing: str, grace_seconds: float) -> tuple[int, Transcript]:
    """Run `dvc repro` for this one stage, show what it prints, and return its exit code."""
    name = f"stage {addressing!r}"
    return run(name, ["repro", "--single-item", addressing], grace_seconds, echo=True)


def unchanged(addressings: Sequence[str], grace_seconds: float) -> set[str]:
    """Return the stages about which `dvc status` has nothing to report; none if it fails."""
    command = ["status", "--json", *addressings]
    code, transcript = run("dvc status", command, grace_seconds, echo=False)
    return verdicts.unchanged(addressings, [*transcript.last]) if code == 0 else set()


def run(
    name: str, command: Sequence[str], grace_seconds: float, *, echo: bool
) -> tuple[int, Transcript]:
    """Run one DVC command to its end, or until a signal ends it."""
    transcript = Transcript()
    process = Supervised(
        name,
        [sys.executable, "-m", "dvc", *command],
        grace_seconds=grace_seconds,
        env=environment(),
    )
    with STOP_REQUEST.reaching(process):
        for chunk in process.chunks():
            transcript.add(chunk)
            if echo:
                show(chunk)
        code = process.wait()
    transcript.close()
    return code, transcript


def environment() -> dict[str, str]:
    """Return the environment of the stages: our interpreter's folder first, output as it comes."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}


def show(chunk: bytes) -> None:
    """Pass output on to the terminal at once."""
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
