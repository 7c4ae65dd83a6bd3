"""Patterns of parameter names: a part of the name, or a regular expression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches


def first_matches(patterns: Sequence[str], names: Sequence[str], key: str) -> list[int | None]:
    """Return, for each name, the place of the first pattern that is found in it.

    Args:
        patterns: Regular expressions, searched anywhere in a name.
        names: Of parameters.
        key: Of the patterns in params.yaml, for the message.

    Raises:
        ValueError: A pattern is found in no name.
    """
    compiled = [re.compile(pattern) for pattern in patterns]
    for pattern, expression in zip(patterns, compiled, strict=True):
        if not any(expression.search(name) for name in names):
            raise ValueError(
                f"params.yaml: {key}: {pattern!r} matches no parameter that could learn; the "
                f"nearest names are {', '.join(nearest(pattern, names))}: give a part of one"
            )
    return [
        next((place for place, one in enumerate(compiled) if one.search(name)), None)
        for name in names
    ]


def nearest(pattern: str, names: Sequence[str], num: int = 3) -> list[str]:
    """Return the names that look most like a pattern, or like a part of one."""
    parts: dict[str, str] = {}
    for name in names:
        pieces = name.split(".")
        for start in range(len(pieces)):
            for end in range(start + 1, len(pieces) + 1):
                parts.setdefault(".".join(pieces[start:end]), name)
    close = get_close_matches(pattern, parts, n=4 * num, cutoff=0.5)
    found = list(dict.fromkeys(parts[part] for part in close))
    return (found or list(names))[:num]
