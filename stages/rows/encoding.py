"""Encode the rows that a store lacks, in batches of one fixed size, and add them as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from stages.rows.layout import Array
from stages.rows.location import require_space
from stages.rows.table import RowTable

FLUSH_BYTES = 64 * 2**20  # rows wait for a common commit until they are this large ...
FLUSH_SECONDS = 10.0  # ... or this old: what a killed encoder loses

Item = TypeVar("Item")
Inputs: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class FixedBatch(Generic[Item]):
    """An encoder at one batch size, so that a row's bits do not depend on its neighbours.

    Attributes:
        prepare: makes one item's inputs, an array of the same shape for each item of a table.
        encode: turns the stacked inputs of exactly `size` items into their rows.
        size: items a call.
        threads: of torch; like `size` they change the bits.
        identity: what else of the encoder a row depends on: its weights, convention, dtype.
    """

    prepare: Callable[[Item], Inputs]
    encode: Callable[[Inputs], dict[str, Array]]
    size: int
    threads: int
    identity: Mapping[str, str]

    @property
    def parts(self) -> dict[str, str | int]:
        """All that a row depends on besides its item and the generation, for `row_key`."""
        return {**self.identity, "batch_size": self.size, "threads": self.threads}

    def rows(self, items: Sequence[Item]) -> dict[str, Array]:
        """Encode up to `size` items."""
        return self.encode_inputs([self.prepare(item) for item in items])

    def encode_inputs(self, inputs: Sequence[Inputs]) -> dict[str, Array]:
        """Encode up to `size` inputs, the last repeated to fill the batch.

        Raises:
            ValueError: the repeated rows differ, so a row depends on its place in the batch.
        """
        last = len(inputs) - 1
        padded = [*inputs, *[inputs[last]] * (self.size - len(inputs))]
        rows = self.encode(np.stack(padded))
        for values in rows.values():
            if any(values[last].tobytes() != copy.tobytes() for copy in values[last + 1 :]):
                raise ValueError(
                    "the encoder gives equal inputs different rows with"
                    f" hardware.encode_batch_size {self.size} and hardware.threads {self.threads}:"
                    " make the batch size 1 or a multiple of the threads"
                )
        return {name: values[: len(inputs)] for name, values in rows.items()}


@dataclass(frozen=True)
class Count:
    """Rows encoded, and rows that were there already."""

    encoded: int
    reused: int

    def __str__(self) -> str:
        return f"encoded {self.encoded} rows, reused {self.reused}"


@dataclass(frozen=True)
class Wanted(Generic[Item]):
    """Rows that one table should hold: for each key what its row is made from."""

    table: RowTable
    items: Mapping[str, Item]


def encode_missing(
    root: str, wanted: Sequence[Wanted[Item]], encoder: FixedBatch[Item], stage: str
) -> Count:
    """Add those wanted rows that the store at `root` lacks, with a progress bar on stderr.

    Raises:
        ValueError: the disk has too little room, or a row is not finite.
    """
    missing = [(part, part.table.missing(part.items)) for part in wanted]
    num_missing = sum(len(keys) for _, keys in missing)
    num_bytes = sum(len(keys) * part.table.row_bytes for part, keys in missing)
    require_space(root, num_bytes, f"{stage}: {num_missing} rows")
    with tqdm(total=num_missing, desc=stage, unit="row", disable=not num_missing) as bar:
        for part, keys in missing:
            buffer = _Buffer(part.table)
            for batch in _batches(keys, encoder.size):
                buffer.add(batch, encoder.rows([part.items[key] for key in batch]))
                bar.update(len(batch))
            buffer.flush()
    num_wanted = sum(len(part.items) for part in wanted)
    return Count(encoded=num_missing, reused=num_wanted - num_missing)


def _batches(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Cut into batches, the incomplete one first: filling it up also checks the encoder."""
    end = len(keys) % size or size
    while keys:
        yield keys[:end]
        keys, end = keys[end:], size


class _Buffer:
    """Rows on their way into a table: few large commits instead of many small ones."""

    def __init__(self, table: RowTable) -> None:
        self.table = table
        self._clear()

    def add(self, keys: Sequence[str], rows: Mapping[str, Array]) -> None:
        self.keys += keys
        self.parts.append(rows)
        full = len(self.keys) * self.table.row_bytes >= FLUSH_BYTES
        if full or time.monotonic() - self.since > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.keys:
            names = self.parts[0]
            values = {name: np.concatenate([part[name] for part in self.parts]) for name in names}
            self.table.add(self.keys, values)
        self._clear()

    def _clear(self) -> None:
        self.keys: list[str] = []
        self.parts: list[Mapping[str, Array]] = []
        self.since = time.monotonic()
