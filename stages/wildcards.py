"""Choices in a text: {red|blue} stands for one of its parts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # parameters are checked without it
    import numpy as np

INNERMOST = re.compile(r"\{([^{}]*)\}")  # a choice within which there is no other


def choose(text: str, random: np.random.Generator) -> str:
    """Put one of its parts for every {a|b}, the innermost first."""

    def part(match: re.Match[str]) -> str:
        parts = match[1].split("|")
        return parts[int(random.random() * len(parts))]

    replaced = 1
    while replaced:
        text, replaced = INNERMOST.subn(part, text)
    return text


def is_balanced(text: str) -> bool:
    """Say whether every brace has its partner."""
    depth = 0
    for brace in re.findall(r"[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0
