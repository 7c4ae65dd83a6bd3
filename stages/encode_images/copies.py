"""Rows that no encoder makes: masks, and the pixels that SDXL's ControlNets follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stages.bucketed_pictures import Pictures
from stages.encoding.batch import Encoder, FixedBatch
from stages.encoding.missing import Wanted, Work
from stages.picture_encoding import copying, opener
from stages.picture_rows import Bucketed


def copier(kind: str, pictures: Pictures, batch_size: int, threads: int) -> Encoder[Bucketed]:
    """Return what keeps the pixels of a kind's pictures: the same bits, whatever the batch."""
    return FixedBatch(opener(kind, pictures), copying(kind), batch_size, threads, {})


@dataclass(frozen=True)
class ByKind:
    """Work whose tables are filled by others, each kind by its own."""

    works: Mapping[str, Work[Bucketed]]

    def encode(self, missing: Sequence[Wanted[Bucketed]], done: Callable[[int], object]) -> None:
        """See `Work`."""
        for kind, work in self.works.items():
            if parts := [part for part in missing if part.table.kind == kind]:
                work.encode(parts, done)
