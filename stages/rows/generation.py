"""Tell changed encoder code from unchanged: a fixed probe is encoded and compared with older ones.

A generation is named by the first probe it was seen with, so its name depends on no history: two
fresh stores on one kind of machine give the same names, and so the same row keys.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stages.rows.layout import Array
from stages.rows.table import RowTable

PROBE_SIZE = 512  # values kept of an encoded probe, evenly spread over it
TOLERANCE = 1e-4  # of the probe's root mean square: above rounding noise, below a changed formula


@dataclass(frozen=True)
class Generation:
    """One behaviour of an encoder: `name` is part of row keys, `probe` what it gave at first."""

    name: str
    probe: Array

    def to_metadata(self) -> dict[str, str]:
        """Return the generation as text, for a manifest."""
        probe = base64.b64encode(self.probe.astype("<f4").tobytes()).decode()
        return {"generation": self.name, "probe": probe}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Generation:
        """Return the generation that `to_metadata` wrote."""
        probe = np.frombuffer(base64.b64decode(metadata["probe"]), "<f4").astype(np.float32)
        return cls(metadata["generation"], probe)

    def gave(self, probe: Array, tolerance: float = TOLERANCE) -> bool:
        """Say whether `probe` equals this generation's but for rounding."""
        return _distance(self.probe, probe) <= tolerance


def summary(rows: Mapping[str, Array]) -> Array:
    """Return PROBE_SIZE values, evenly spread, of the first row of an encoded probe."""
    flat = np.concatenate([values[0].reshape(-1) for values in rows.values()])
    chosen = np.linspace(0, flat.size - 1, PROBE_SIZE).round().astype(np.int64)
    return np.ascontiguousarray(flat[chosen], dtype=np.float32)


def encoder_generation(
    root: str, encoder: str, probe: Array, tolerance: float = TOLERANCE
) -> Generation:
    """Return the generation that gave `probe` before, or begin a new one.

    Args:
        root: the store's place.
        encoder: hash of what is known of the encoder: weights, convention, dtype, batch size.
        probe: `summary` of the encoded probe.
        tolerance: largest difference that counts as rounding, as a fraction of the probe's root
            mean square.
    """
    table = RowTable.open(root, f"probes-{encoder[:16]}", {"probe": probe.shape})
    known = _first_match(table, probe, tolerance)
    if known is None:
        name = hashlib.sha256(f"{encoder}\n".encode() + probe.astype("<f4").tobytes()).hexdigest()
        table.add([name[:16]], {"probe": probe[None]})
        known = _first_match(table, probe, tolerance)  # another process may have been first
        assert known is not None
    return known


def _first_match(table: RowTable, probe: Array, tolerance: float) -> Generation | None:
    names = table.keys()
    stored = table.take(names)["probe"]
    generations = (Generation(name, old) for name, old in zip(names, stored, strict=True))
    return next((known for known in generations if known.gave(probe, tolerance)), None)


def _distance(stored: Array, probe: Array) -> float:
    """Return the largest difference as a fraction of the stored probe's root mean square."""
    scale = float(np.sqrt(np.mean(np.square(stored, dtype=np.float64))))
    return float(np.abs(stored - probe).max()) / max(scale, 1e-12)
