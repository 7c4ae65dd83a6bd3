"""Read every row of the store, compare it with its checksum, and remove what is damaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import lance
import numpy as np
import pyarrow as pa

from stages.rows.commits import committing
from stages.rows.faults import DamagedError, writing
from stages.rows.layout import Columns, checksums
from stages.store.clean import remove_rows
from stages.store.tables import Place, list_tables

BATCH_ROWS = 64


@dataclass(frozen=True)
class Damage:
    """What is wrong with one table.

    Attributes:
        place: of the table.
        num_rows: rows that were checked or cannot be read.
        keys: of rows with other values than were written.
        fragments: ids of files that cannot be read.
        num_lost: rows in those files.
        is_unreadable: the table does not open at all.
    """

    place: Place
    num_rows: int = 0
    keys: Sequence[str] = ()
    fragments: Sequence[int] = ()
    num_lost: int = 0
    is_unreadable: bool = False

    @property
    def is_whole(self) -> bool:
        """Nothing is wrong."""
        return not (self.keys or self.fragments or self.is_unreadable)


def check(root: str) -> list[Damage]:
    """Check all tables of the store that this version of the code wrote."""
    return [found for place in list_tables(root) if (found := _check(place)) is not None]


def mend(damage: Damage) -> None:
    """Remove the damaged rows, so that they are encoded again where they are needed."""
    place = damage.place
    if damage.is_unreadable:
        place.remove()
        return
    if damage.fragments:
        operation = lance.LanceOperation.Delete([], list(damage.fragments), "damaged files")
        with writing(place.uri), committing(place.uri):
            dataset = lance.dataset(place.uri)
            lance.LanceDataset.commit(place.uri, operation, read_version=dataset.version)
    remove_rows(place, damage.keys)


def _check(place: Place) -> Damage | None:
    try:
        if not place.is_current:
            return None
        dataset, columns = lance.dataset(place.uri), place.open().columns
    except DamagedError:
        return Damage(place, is_unreadable=True)
    keys: list[str] = []
    fragments, num_lost = [], 0
    for fragment in dataset.get_fragments():
        try:
            keys += _wrong_rows(fragment, columns)
        except (OSError, pa.ArrowException):
            fragments.append(fragment.fragment_id)
            num_lost += fragment.physical_rows - fragment.num_deletions
    num_rows = sum(each.physical_rows - each.num_deletions for each in dataset.get_fragments())
    return Damage(place, num_rows, keys, fragments, num_lost)


def _wrong_rows(fragment: lance.LanceFragment, columns: Columns) -> list[str]:
    """Return the keys of a file's rows that are not what was written."""
    wrong: list[str] = []
    names = ["key", "checksum", *columns]
    for batch in fragment.to_batches(columns=names, batch_size=BATCH_ROWS):
        values = [
            batch[name].flatten().to_numpy(zero_copy_only=False).reshape(-1, column.size)
            for name, column in columns.items()
        ]
        bad = checksums(values) != batch["checksum"].to_numpy()
        wrong += [batch["key"][int(place)].as_py() for place in np.flatnonzero(bad)]
    return wrong
