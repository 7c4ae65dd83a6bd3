"""What the pictures of a batch tell the denoiser, by the editing mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from modelzoo.denoiser import Denoiser
from stages.params.training import Training
from stages.train.batches import Batch


class Editing(Protocol):
    """How a batch's pictures join what the denoiser is told; any method may train with it."""

    @property
    def time_offset(self) -> float | None:
        """Give where references stand along t, for sampling: None is the family's own place."""
        ...

    def add(self, denoiser: Denoiser, conditioning: Any, batch: Batch) -> Any:
        """Add the pictures to the conditioning that the captions gave.

        Raises:
            ValueError: The batch has no such pictures, or the denoiser cannot see them.
        """
        ...


@dataclass(frozen=True)
class Kontext:
    """References are tokens beside the target's (Black Forest Labs 2025, section 3).

    They are clean whatever t is, and nothing of the loss is theirs: the network's output covers
    the target's tokens alone.
    """

    time_offset: float | None  # from one to the next along t; None: the family's own

    def add(self, denoiser: Denoiser, conditioning: Any, batch: Batch) -> Any:
        """Add all references of the items."""
        if not batch.references:
            raise ValueError(
                f"training.editing is 'kontext', but sample {batch.names[0]!r} has no reference: "
                "name them in data.references and run `dvc repro`"
            )
        return denoiser.with_pictures(conditioning, batch.references, time_offset=self.time_offset)


def editing_of(settings: Training) -> Editing | None:
    """Return the mode of `training.editing`; None where pictures are made of captions alone."""
    if settings.editing is None:
        return None
    return Kontext(None if settings.kontext is None else settings.kontext.time_offset)
