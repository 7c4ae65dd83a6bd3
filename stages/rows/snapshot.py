"""One version of a table: what its rows are found, read and checked by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import lance
import numpy as np

from stages.rows.flat import Addresses
from stages.rows.layout import Columns, Stored, Sums


@dataclass(frozen=True)
class Snapshot:
    """One version of a table, with what its rows are found and checked by.

    Attributes:
        dataset: the version.
        places: of each key the place of its row, oldest first.
        addresses: of each row, see `flat`.
        checksums: of each row, see `layout.checksums`.
    """

    dataset: lance.LanceDataset
    places: Mapping[str, int]
    addresses: Addresses
    checksums: Sums

    @classmethod
    def of(cls, dataset: lance.LanceDataset) -> Snapshot:
        """Read the keys of a version; of racing writers' copies of a row the first counts."""
        scanner = dataset.scanner(
            columns=["key", "checksum"], with_row_address=True, scan_in_order=True
        )
        rows = scanner.to_table()
        keys = rows["key"].to_pylist()
        return cls(
            dataset=dataset,
            places={key: place for place, key in enumerate(keys)},
            addresses=rows["_rowaddr"].to_numpy().astype(np.int64),
            checksums=rows["checksum"].to_numpy(),
        )


def gather(dataset: lance.LanceDataset, columns: Columns, places: Addresses) -> dict[str, Stored]:
    """Return for each column the stored values of the rows at `places`, read by Lance."""
    distinct, order = np.unique(places, return_inverse=True)
    rows = dataset.take(distinct.tolist(), columns=list(columns))
    return {
        name: rows[name].combine_chunks().flatten().to_numpy().reshape(-1, column.size)[order]
        for name, column in columns.items()
    }
