"""Encode the rows that a store lacks and add them as they come; say before what it will take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol

from tqdm import tqdm

from stages.encoding.ahead import Pool, ReadAhead, open_pool
from stages.encoding.batch import Batches, Encoder, Inputs, Item
from stages.rows.location import free_bytes, require_space
from stages.rows.table import RowTable


@dataclass(frozen=True)
class Count:
    """Rows encoded, and rows that were there already."""

    encoded: int
    reused: int

    def __str__(self) -> str:
        return f"encoded {self.encoded} rows, reused {self.reused}"


@dataclass(frozen=True)
class Wanted(Generic[Item]):
    """Rows that one table should hold.

    Attributes:
        table: of the rows.
        items: for each key what its row is made from.
        describe: gives the text that an item's key is the hash of; can be pickled.
    """

    table: RowTable
    items: Mapping[str, Item]
    describe: Callable[[Item], str]

    def missing(self) -> Wanted[Item]:
        """Keep what the table lacks."""
        return replace(self, items={key: self.items[key] for key in self.table.missing(self.items)})

    @property
    def num_bytes(self) -> int:
        """Bytes of the values of all these rows."""
        return len(self.items) * self.table.row_bytes


class Work(Protocol[Item]):
    """Who encodes."""

    def encode(self, missing: Sequence[Wanted[Item]], done: Callable[[int], object]) -> None:
        """Add all these rows to their tables; call `done` with how many were just encoded."""


@dataclass(frozen=True)
class Local(Generic[Item]):
    """This process encodes, while `decode_workers` others (0: a thread) prepare what is next."""

    encoder: Encoder[Item]
    decode_workers: int

    def encode(self, missing: Sequence[Wanted[Item]], done: Callable[[int], object]) -> None:
        """See `Work`."""
        num_processes = min(self.decode_workers, sum(len(part.items) for part in missing))
        with open_pool(num_processes) as pool:
            for part in missing:
                encode_table(part, self.encoder.prepare, self.encoder.batches(), pool, done)


def encode_missing(
    root: str, wanted: Sequence[Wanted[Item]], work: Work[Item], stage: str
) -> Count:
    """Add those wanted rows that the store at `root` lacks, with a progress bar on stderr.

    Raises:
        ValueError: the disk has too little room, an item cannot be prepared, or a row is not
            finite. What was encoded before stays.
    """
    missing = [lacking for part in wanted if (lacking := part.missing()).items]
    num_missing = sum(len(part.items) for part in missing)
    num_bytes = sum(part.num_bytes for part in missing)
    require_space(root, num_bytes, f"{stage}: {num_missing} rows")
    if missing:
        sys.stderr.write(f"{stage}: {forecast(root, num_missing, num_bytes)}\n")
        with tqdm(total=num_missing, desc=stage, unit="row") as bar:
            work.encode(missing, bar.update)
    num_wanted = sum(len(part.items) for part in wanted)
    return Count(encoded=num_missing, reused=num_wanted - num_missing)


def forecast(root: str, num_rows: int, num_bytes: int) -> str:
    """Say what encoding will take."""
    free = free_bytes(root)
    room = "" if free is None else f" ({free / 1e9:.1f} GB free)"
    return f"{num_rows} rows to encode, {num_bytes / 1e6:.1f} MB in {root}{room}"


def encode_table(
    part: Wanted[Item],
    prepare: Callable[[Item], Inputs],
    batches: Batches,
    pool: Pool,
    done: Callable[[int], object],
) -> None:
    """Encode rows of one table in batches; each is a commit, so a kill loses one batch at most.

    A commit costs 10 ms, which only an encoder of toy size notices (`benchmarks/encoding.py`).
    """
    keys = list(part.items)
    inputs = ReadAhead(pool, prepare, list(part.items.values()))
    while keys:
        size = batches.next_size(len(keys))
        batch, keys = keys[:size], keys[size:]
        rows = batches.encode_inputs(inputs.take(size, 2 * batches.size))
        part.table.add(batch, rows, [part.describe(part.items[key]) for key in batch])
        done(size)
