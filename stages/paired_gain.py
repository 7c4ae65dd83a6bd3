"""By how much training lowered the loss of the same pictures under the same noise, how surely."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedGain:
    """The mean of base minus trained over the pictures, and the ends of its interval."""

    mean: float
    low: float | None  # None: one picture alone has no interval
    high: float | None


def paired_gain(path: Path) -> PairedGain:
    """Read what training wrote of each validation picture (item, base, trained).

    The interval is Student's for the mean of paired differences (Student 1908) at CONFIDENCE.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    gains = np.array([float(row["base"]) - float(row["trained"]) for row in rows])
    mean, num = float(gains.mean()), len(gains)
    if num < 2:
        return PairedGain(mean, None, None)
    error = float(gains.std(ddof=1)) / np.sqrt(num)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, num - 1)) * error
    return PairedGain(mean, mean - reach, mean + reach)
