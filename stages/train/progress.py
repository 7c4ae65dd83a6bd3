"""Lines for the person who watches."""

from __future__ import annotations


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(f"train: {text}", flush=True)  # noqa: T201
