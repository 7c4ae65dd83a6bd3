"""What DVC said about a stage, read from the lines that `dvc repro --single-item` prints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

RAN, CACHED, RESTORED = "ran", "cached", "restored"  # cached: DVC found nothing to do

BUSY = ("Unable to acquire lock", "is busy, it is being blocked by")
FAILED = "ERROR: failed to reproduce "


def verdict(addressing: str, lines: Iterable[str]) -> str | None:
    """Return DVC's verdict on the stage: the first line that is one, for the stage speaks later."""
    said = {
        f"Running stage '{addressing}':": RAN,
        f"Verifying data sources in stage: '{addressing}'": RAN,
        f"Stage '{addressing}' didn't change, skipping": CACHED,
        f"'{addressing}' didn't change, skipping": CACHED,
        f"Stage '{addressing}' is cached - skipping run, checking out outputs": RESTORED,
    }
    return next((said[line] for line in lines if line in said), None)


def complaint(lines: Sequence[str]) -> str:
    """Return why a stage failed: its own last line if its command failed, else what DVC said."""
    if any(text in line for line in lines for text in BUSY):
        return "another DVC process is at work on this repository: wait until it has ended"
    for number, line in enumerate(lines):
        if line.startswith(FAILED):
            cause = line.removeprefix(FAILED).partition(": ")[2]
            own = [text for text in lines[:number] if not text.startswith(("> ", "Running stage"))]
            return own[-1] if own and cause.startswith("failed to run: ") else cause
    return lines[-1].removeprefix("ERROR: ") if lines else "it ended without a word"


def unchanged(addressings: Iterable[str], status: Sequence[str]) -> set[str]:
    """Return the stages that `dvc status --json` does not list, given the lines it printed.

    Nothing is known, so nothing is unchanged, if DVC could not tell.
    """
    report = next((line for line in status if line.startswith("{")), None)
    return set() if report is None else set(addressings) - set(json.loads(report))
