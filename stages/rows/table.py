"""One Lance table of encoded rows: insert-only, safe with several writers, read in any order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TypeAlias

import lance
import numpy as np

from stages.rows.layout import (
    Array,
    Shapes,
    refuse_not_finite,
    schema_of,
    shapes_of,
    to_array,
    to_rows,
)

MAX_SMALL_FRAGMENTS = 64  # appends before they are merged into larger files
FRAGMENT_BYTES = 512 * 2**20  # a file of this size is never rewritten
KEEP_OLD_VERSIONS = timedelta(days=7)  # how long a reader may hold a version that has no tag
COMMIT_RETRIES = 100
PATIENCE = timedelta(minutes=5)
Snapshot: TypeAlias = tuple[lance.LanceDataset, dict[str, int]]  # and the place of each key in it
STAGES = {"latents": "encode_images", "text": "encode_captions"}  # kind of table -> who fills it


class RowTable:
    """The rows of one shape, each named by a key; a key once written never changes its row.

    Opening writes nothing: a table that is not there has no rows and appears with the first `add`.
    Threads may share a table; a forked child may not use its parent's (spawn instead).
    """

    def __init__(self, uri: str, columns: Shapes | None) -> None:
        self.uri = uri
        self._asked = dict(columns) if columns is not None else None
        self._pid = os.getpid()
        self._snapshot: Snapshot | None = None

    @classmethod
    def open(cls, root: str, name: str, columns: Shapes | None = None) -> RowTable:
        """Open table `name` of the store at `root`.

        Args:
            root: the store's place, see `location.store_root`.
            name: for example `latents-32x4x12`.
            columns: shape of each column of a row; None takes the shapes of the existing table.

        Raises:
            ValueError: the table exists with other columns.
        """
        table = cls(f"{root}/rows/{name}.lance", columns)
        table._newest()
        return table

    @property
    def columns(self) -> dict[str, tuple[int, ...]]:
        """Shape of each column of one row; empty when neither asked for nor written."""
        if self._asked is None and (dataset := self._newest()) is not None:
            self._asked = shapes_of(dataset.schema)
        return self._asked or {}

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's values."""
        return sum(4 * int(np.prod(shape)) for shape in self.columns.values())

    @property
    def version(self) -> int:
        """Newest version of the table; 0 when nothing was ever written."""
        dataset = self._newest()
        return int(dataset.version) if dataset is not None else 0

    def tag(self, name: str) -> None:
        """Let `name` point at the version that is being read, which keeps clean-ups off it."""
        self._refresh()
        if self._snapshot is None:
            raise ValueError(
                f"{self.uri} has no rows yet, so it cannot be tagged {name!r}: fill it"
            )
        dataset = self._snapshot[0]
        try:
            dataset.tags.create(name, dataset.version)
        except ValueError as error:
            if "already exists" not in str(error):
                raise
            dataset.tags.update(name, dataset.version)

    def keys(self) -> list[str]:
        """Return the keys of all rows, oldest first."""
        return list(self._refresh())

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return those of `keys` that have no row, each once, in order; scans the keys only."""
        known = self._refresh()
        return [key for key in dict.fromkeys(keys) if key not in known]

    def add(self, keys: Sequence[str], values: Mapping[str, Array]) -> int:
        """Write the rows whose keys are new in one atomic commit; return how many those were.

        Args:
            keys: one key a row.
            values: for each column the values (len(keys), *shape), float32 and finite.

        Raises:
            ValueError: wrong columns, shape or dtype, or a value that is not finite.
        """
        rows = to_rows(self.uri, self.columns, keys, values)
        dataset = self._newest() or self._create()
        merge = dataset.merge_insert("key").when_not_matched_insert_all()
        done = merge.conflict_retries(COMMIT_RETRIES).retry_timeout(PATIENCE).execute(rows)
        self._compact(dataset)
        return int(done["num_inserted_rows"])

    def take(self, keys: Sequence[str]) -> dict[str, Array]:
        """Return the rows of `keys`, in that order, as (len(keys), *shape) for each column.

        Raises:
            ValueError: rows are missing, or hold values that are not finite.
        """
        if not keys:
            return {name: np.empty((0, *shape), np.float32) for name, shape in self.columns.items()}
        try:
            return self._take(keys)
        except OSError:  # a clean-up removed the version read so far; the newest has all its rows
            self._snapshot = None
            return self._take(keys)

    def require(self, keys: Sequence[str]) -> None:
        """Raise ValueError when rows are missing, saying how many and what to run."""
        self._covering(keys)

    def _take(self, keys: Sequence[str]) -> dict[str, Array]:
        dataset, places = self._covering(keys)
        wanted = sorted({places[key]: key for key in keys}.items())
        rows = dataset.take([place for place, _ in wanted], columns=list(self.columns))
        order = {key: row for row, (_, key) in enumerate(wanted)}
        chosen = [order[key] for key in keys]
        taken = {}
        for name, shape in self.columns.items():
            values = to_array(rows[name], shape)
            refuse_not_finite(self.uri, name, list(order), values)
            taken[name] = values[chosen]
        return taken

    def _covering(self, keys: Sequence[str]) -> Snapshot:
        """Return a version that holds all `keys`: the one read so far, or else the newest."""
        self._refuse_fork()
        snapshot = self._snapshot
        if snapshot is None or not all(key in snapshot[1] for key in keys):
            missing = self.missing(keys)
            snapshot = self._snapshot
            if missing or snapshot is None:
                kind = self.uri.rpartition("/")[2].partition("-")[0]
                raise ValueError(
                    f"{self.uri}: {len(missing)} of {len(set(keys))} rows are missing (first"
                    f" {''.join(missing[:1])[:16]!r}): run python -m"
                    f" stages.{STAGES.get(kind, kind)} --fill"
                )
        return snapshot

    def _refresh(self) -> dict[str, int]:
        """Read the keys of the newest version, unless known; return the place of each key in it."""
        dataset = self._newest()
        if dataset is None:
            return {}
        snapshot = self._snapshot
        if snapshot is None or snapshot[0].version != dataset.version:
            keys = dataset.to_table(columns=["key"], scan_in_order=True)["key"].to_pylist()
            snapshot = dataset, {key: place for place, key in enumerate(keys)}
            self._snapshot = snapshot
        return snapshot[1]

    def _newest(self) -> lance.LanceDataset | None:
        """Open the newest version; None when the table was never written."""
        self._refuse_fork()
        try:
            dataset = lance.dataset(self.uri)
        except ValueError as error:
            if "not found" in str(error):
                return None
            raise
        found = shapes_of(dataset.schema)
        if self._asked is not None and found != self._asked:
            raise ValueError(
                f"{self.uri} holds rows of {found!r}, but {self._asked!r} are asked for: remove the"
                " table, or point data.store elsewhere"
            )
        return dataset

    def _create(self) -> lance.LanceDataset:
        """Create the empty table, or open the one that another process has just created."""
        try:
            lance.write_dataset(schema_of(self.columns).empty_table(), self.uri, mode="create")
        except OSError as error:
            if "already exists" not in str(error):
                raise
        dataset = self._newest()
        assert dataset is not None
        return dataset

    def _compact(self, dataset: lance.LanceDataset) -> None:
        """Merge many small files into larger ones; readers keep the version they opened."""
        full = max(1, FRAGMENT_BYTES // self.row_bytes)
        small = sum(fragment.physical_rows < full for fragment in dataset.get_fragments())
        if small <= MAX_SMALL_FRAGMENTS:
            return
        try:
            dataset.optimize.compact_files(target_rows_per_fragment=full)
        except OSError as error:
            if "conflict" not in str(error).lower():  # another writer compacts: its work serves us
                raise
            return
        dataset.cleanup_old_versions(KEEP_OLD_VERSIONS, error_if_tagged_old_versions=False)

    def _refuse_fork(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"{self.uri} was opened before a fork, and Lance is not fork-safe: start workers"
                " with the spawn method, or use threads"
            )
