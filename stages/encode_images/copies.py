"""Rows that no encoder makes: masks, and the pixels that SDXL's ControlNets follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stages.encode_images.pictures import Masks, Pictures
from stages.encoding.batch import Encoder, FixedBatch, Inputs, Rows
from stages.encoding.missing import Wanted, Work
from stages.picture_rows import Bucketed

COLUMNS = {"masks": "mask", "pixels": "pixels"}  # the column of a kind's rows


def copier(kind: str, pictures: Pictures, batch_size: int, threads: int) -> Encoder[Bucketed]:
    """Return what keeps the pixels of a kind's pictures: the same bits, whatever the batch."""
    column = COLUMNS[kind]

    def copy(batch: Inputs) -> Rows:
        """Turn pixels (B, H, W, C) into (B, C, H, W)."""
        return {column: np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32)}

    prepare = Masks(pictures) if kind == "masks" else pictures
    return FixedBatch(prepare, copy, batch_size, threads, {})


@dataclass(frozen=True)
class ByKind:
    """Work whose tables are filled by others, each kind by its own."""

    works: Mapping[str, Work[Bucketed]]

    def encode(self, missing: Sequence[Wanted[Bucketed]], done: Callable[[int], object]) -> None:
        """See `Work`."""
        for kind, work in self.works.items():
            if parts := [part for part in missing if part.table.kind == kind]:
                work.encode(parts, done)
