"""The micro-batches that a dataset gives, by the sizes of their pictures."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stages.batch_sizes import batch_size_of
from stages.needs import MicroBatch
from stages.params.training import BatchSize, Validation

Row = Mapping[str, Any]  # of BUCKETS
Item = tuple[str, int]  # sample and resolution


class Settings(Protocol):
    """What of section `training` decides about micro-batches."""

    @property
    def batch_size(self) -> int:
        """`training.batch_size`."""

    @property
    def batch_sizes(self) -> Sequence[BatchSize]:
        """`training.batch_sizes`."""

    @property
    def validation(self) -> Validation:
        """`training.validation`."""


@dataclass(frozen=True)
class Kind:
    """Micro-batches of equal sizes."""

    sizes: MicroBatch
    num: int  # in an epoch
    num_validated: int  # in a validation, at each of its times


def kinds_of(rows: Sequence[Row], settings: Settings) -> list[Kind]:
    """Return the kinds of micro-batches of the dataset, the largest first.

    Args:
        rows: Of BUCKETS; of the variants of an item the first counts, as all have one size.
        settings: Of the training.
    """
    references: dict[Item, list[tuple[int, int]]] = defaultdict(list)
    for row in rows:
        if row["role"] == "reference" and row["variant"] == 0:
            references[_item(row)].append((row["width"], row["height"]))
    validated = _validated(rows, settings.validation.images)
    repeats: dict[tuple[Any, ...], int] = defaultdict(int)
    watched: dict[tuple[Any, ...], int] = defaultdict(int)
    for row in rows:
        if row["role"] != "target" or row["variant"] != 0:
            continue
        sizes = row["width"], row["height"], tuple(references[_item(row)])
        if row["split"] == "train":
            repeats[sizes] += 0 if row["prior"] else row["repeats"]
        elif row["sample_id"] in validated:
            watched[sizes] += 1
    kinds = [
        _kind(sizes, repeats.get(sizes, 0), watched.get(sizes, 0), settings)
        for sizes in repeats.keys() | watched.keys()
    ]
    return sorted(kinds, key=lambda kind: (kind.sizes.load, str(kind.sizes)), reverse=True)


def _kind(sizes: tuple[Any, ...], num: int, num_validated: int, settings: Settings) -> Kind:
    width, height, references = sizes
    most = batch_size_of(width, height, settings.batch_size, settings.batch_sizes)
    micro_batch = MicroBatch(width, height, min(most, max(num, num_validated)) or most, references)
    return Kind(micro_batch, math.ceil(num / most), math.ceil(num_validated / most))


def _validated(rows: Iterable[Row], num: int) -> set[str]:
    """Return the samples of the validation's grid: the first ones."""
    names = {
        row["sample_id"] for row in rows if row["role"] == "target" and row["split"] == "validation"
    }
    return set(sorted(names)[:num])


def _item(row: Row) -> Item:
    return row["sample_id"], row["resolution"]
