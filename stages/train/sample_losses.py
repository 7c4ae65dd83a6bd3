"""Which pictures are hard to learn: the losses of each item over all its visits."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

NUM_BINS = 10  # of t, equally wide
HORIZON = 100  # visits of a bin after which its mean forgets the older ones


class MeanLosses(NamedTuple):
    """Of one sample, over its visits."""

    loss: float  # without the sample's weight
    relative: float  # over the usual loss at the same t; 1 is a usual picture


@dataclass
class SampleLosses:
    """Sums over the visits to each item, and what is usual at each t by now.

    How large a loss is depends on t more than on the picture, so a visit's loss is divided by the
    running mean of all items' losses in the same tenth of t: hard times do not look like bad
    pictures, and neither does an early visit.
    """

    sums: dict[str, list[float]] = field(default_factory=dict)  # visits, losses, relative losses
    usual: list[list[float]] = field(  # of each bin of t: visits, mean loss
        default_factory=lambda: [[0.0, 0.0] for _ in range(NUM_BINS)]
    )

    def add(self, names: Sequence[str], losses: Sequence[float], times: Sequence[float]) -> None:
        """Take note of a step's items; a loss that is not finite is left out."""
        for name, loss, t in zip(names, losses, times, strict=True):
            if not math.isfinite(loss):
                continue
            usual = self.usual[min(int(t * NUM_BINS), NUM_BINS - 1)]
            usual[0] += 1
            usual[1] += (loss - usual[1]) / min(usual[0], HORIZON)
            sums = self.sums.setdefault(name, [0.0, 0.0, 0.0])
            sums[0] += 1
            sums[1] += loss
            sums[2] += loss / usual[1] if usual[1] > 0 else 1.0

    def by_sample(self, sample_of: Mapping[str, str]) -> dict[str, MeanLosses]:
        """Return the means of each visited sample; `sample_of` has the sample id of every item."""
        totals: dict[str, list[float]] = {}
        for name, sums in self.sums.items():
            total = totals.setdefault(sample_of[name], [0.0, 0.0, 0.0])
            totals[sample_of[name]] = [a + b for a, b in zip(total, sums, strict=True)]
        return {
            sample_id: MeanLosses(losses / visits, relative / visits)
            for sample_id, (visits, losses, relative) in totals.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain values, 32 characters an item beside its name; no bit is lost."""
        sums = np.array(list(self.sums.values()), "<f8")
        packed = base64.b64encode(sums.tobytes()).decode()
        return {"names": list(self.sums), "sums": packed, "usual": self.usual}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> SampleLosses:
        """Undo `to_json`."""
        sums = np.frombuffer(base64.b64decode(plain["sums"]), "<f8").reshape(-1, 3)
        return cls(
            sums=dict(zip(plain["names"], sums.tolist(), strict=True)),
            usual=[list(bin_) for bin_ in plain["usual"]],
        )
