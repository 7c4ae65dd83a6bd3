"""Which steps are bad: without a finite loss, or with one far above what is usual."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

NUM_RECENT = 100  # good steps whose median loss is the usual one
MIN_RECENT = 20  # before there are that many, no loss is far above the usual
MAX_NAMED = 8  # items in an error message


@dataclass
class BadSteps:
    """The latest bad steps in a row, and what ends training."""

    max_steps: int = 3  # training.max_bad_steps
    explosion_factor: float | None = None  # training.explosion_factor
    num: int = 0  # latest steps that were bad, in a row
    is_finite: bool = True  # whether the latest step was
    names: tuple[str, ...] = ()  # items of the first of those
    recent: list[float] = field(default_factory=list)  # losses of the latest good steps

    def add(self, loss: float, is_finite: bool, names: tuple[str, ...]) -> None:
        """Take note of a step."""
        self.is_finite = is_finite
        if is_finite and not self._explodes(loss):
            self.num = 0
            if self.explosion_factor is not None:
                self.recent = [*self.recent, loss][-NUM_RECENT:]
            return
        self.names = self.names if self.num else names
        self.num += 1

    @property
    def are_too_many(self) -> bool:
        """Whether training must end."""
        return self.num >= self.max_steps

    def message(self, step: int) -> str:
        """Say since when the last steps up to `step` are bad, and with which samples that began."""
        named = ", ".join(self.names[:MAX_NAMED])
        more = len(self.names) - MAX_NAMED
        what = (
            f"the loss is more than {self.explosion_factor:g} times the usual "
            f"{statistics.median(self.recent):.4g}"
            if self.is_finite and self.explosion_factor is not None
            else "the loss or its gradient is not finite"
        )
        return (
            f"training diverged: {what} since step {step - self.num + 1}, which trained on samples "
            f"{named}{f' and {more} more' if more > 0 else ''}: lower training.learning_rate or "
            "raise training.lr_schedule.warmup_steps, or look at these samples"
        )

    def _explodes(self, loss: float) -> bool:
        if self.explosion_factor is None or len(self.recent) < MIN_RECENT:
            return False
        usual = statistics.median(self.recent)
        return loss > self.explosion_factor * usual
