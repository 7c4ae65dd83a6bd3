"""Lines for the person who watches."""

from __future__ import annotations

import os


def say(text: str) -> None:
    """Print a line at once, also into a pipe; of several processes the first speaks (torchrun)."""
    if os.environ.get("RANK", "0") == "0":
        print(f"train: {text}", flush=True)  # noqa: T201
