"""Sections of the editing modes: `training.kontext` and `training.fill`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.params.schema import choice, number


@dataclass(frozen=True)
class Kontext:
    """Pictures to look at, as further tokens."""

    time_offset: float | None = number(
        None, above=0
    )  # along t, from the target to the first reference and on to each next; null: the family's


@dataclass(frozen=True)
class Fill:
    """Pictures of which a part is painted anew, as further channels."""

    masks: str = choice("files", "files", "random")  # of data.mask, or boxes and strokes
