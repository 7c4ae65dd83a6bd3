"""Print how far from diffusers each parity test found us, as a plugin of pytest.

`python -m pytest tests/parity -p tests.parity.measured` listens to the functions of the test files
that compare: `relative` is the largest difference over the oracle's largest value, `difference`
that of two pictures, whose pixels are in [0, 1].
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest

LISTENED = ("relative", "difference")
heard: dict[str, list[float]] = defaultdict(list)  # by file and test


@pytest.fixture(autouse=True)
def listen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record what the functions of the test's file that compare return."""
    test = f"{request.path.name}::{request.function.__name__}"
    for name in LISTENED:
        if compare := getattr(request.module, name, None):
            monkeypatch.setattr(request.module, name, recording(compare, heard[test]))


def recording(compare: Callable[..., float], into: list[float]) -> Callable[..., float]:
    """Wrap a function so that its results are kept."""

    @wraps(compare)
    def wrapped(*args: Any) -> float:
        into.append(compare(*args))
        return into[-1]

    return wrapped


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the smallest and the largest of each test, which may also ask for a difference."""
    terminalreporter.section("differences from diffusers: smallest, largest, how many")
    for name, values in sorted(heard.items()):
        if values:
            least, most = min(values), max(values)
            terminalreporter.line(f"{least:.1e}  {most:.1e}  {len(values):4}  {name}")
