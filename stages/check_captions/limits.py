"""How much may be wrong with the captions, and the sentence that says it is more."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

NAMED = 10  # files that a message or the report names
QUOTE = reprlib.Repr()
QUOTE.maxstring = 60  # characters of a caption in a message


class Problem(NamedTuple):
    """A file, and what is the matter with it where that differs from file to file."""

    path: str
    says: str = ""


@dataclass(frozen=True)
class Limit:
    """A key of params.yaml that limits a share."""

    key: str  # dotted
    allowed: float  # largest share
    what: str  # what the counted ones do, after "3 of 10 "
    advice: str  # what to do, after the names

    def hold(self, where: str, problems: Sequence[Problem], total: int) -> None:
        """Refuse more problems than allowed.

        Raises:
            ValueError: One sentence with the first names and what to do.
        """
        if not problems or len(problems) / total <= self.allowed:
            return
        raise ValueError(
            f"{where}: {len(problems)} of {total} {self.what}, more than {self.key} = "
            f"{self.allowed:g} allows: {named(problems)}; {self.advice}"
        )


def quoted(caption: str) -> str:
    """Return a caption as a message shows it: in one line, its middle left out if it is long."""
    return QUOTE.repr(caption.strip())


def first(paths: Iterable[str]) -> list[str]:
    """Return the first names."""
    return sorted(set(paths))[:NAMED]


def named(problems: Iterable[Problem]) -> str:
    """Return the first names with what is the matter, one for each file."""
    by_path = {problem.path: problem.says for problem in sorted(problems, reverse=True)}
    names = first(by_path)
    shown = ", ".join(f"{path} ({by_path[path]})" if by_path[path] else path for path in names)
    more = len(by_path) - len(names)
    return shown + (f" and {more} more" if more else "")
