"""What every judge takes and gives: questions to generate pictures for, and readings of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # (H, W, 3)


@dataclass(frozen=True)
class Question:
    """A held-out prompt, the size in pixels of the picture to generate for it, and what to edit."""

    prompt: str
    width: int
    height: int
    references: tuple[str, ...] = ()  # pictures to edit, in the judge's folder
    mask: str | None = None  # picture there whose white is filled
    condition: str | None = None  # picture there that a ControlNet follows as it is
    condition_of: str | None = None  # picture there of which its condition is made


@dataclass(frozen=True)
class Reading:
    """What the judge read at one place of one picture, where it should have read `label`."""

    question: int  # index into the questions
    position: int
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels of the picture
    label: str
    read: str
    kind: str = "digit"  # of what was read; others than digits are no digits to confuse

    @property
    def correct(self) -> bool:
        """Whether the judge read what was asked for."""
        return self.read == self.label


class Examination(Protocol):
    """A judge that has proven itself on real data, with the questions it asks."""

    @property
    def questions(self) -> Sequence[Question]:
        """What to generate pictures for."""
        ...

    def read(self, pictures: Sequence[Picture]) -> list[Reading]:
        """Read one generated picture a question, in the order of the questions."""
        ...

    def metrics(self, readings: Sequence[Reading]) -> dict[str, float]:
        """Return the judge's metrics by name, its own score on real data among them."""
        ...

    def summary(self, metrics: dict[str, float]) -> str:
        """Return one short line for a person."""
        ...


class Judge(Protocol):
    """Makes an examination from a folder of real data; refuses if it cannot read that well."""

    def prepare(self, folder: Path, num_prompts: int | None) -> Examination:
        """Learn from `folder` and choose `num_prompts` questions (None: all of them)."""
        ...
