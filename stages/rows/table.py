"""One Lance table of encoded rows: insert-only, safe with several writers, read in any order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

import lance
import numpy as np
import pyarrow as pa
from lance.fragment import write_fragments

from stages.rows.commits import committing
from stages.rows.faults import damaged, reading, undisturbed, writing
from stages.rows.flat import DataFile, FlatRows, NotFlatError
from stages.rows.layout import (
    FILE_VERSION,
    Array,
    Columns,
    Shapes,
    checksums,
    columns_in,
    columns_of,
    schema_of,
    to_rows,
    widen,
)
from stages.rows.snapshot import Snapshot, gather

MAX_SMALL_FRAGMENTS = 64  # appends before they are merged into larger files
FRAGMENT_BYTES = 512 * 2**20  # a file of this size is never rewritten
KEEP_OLD_VERSIONS = timedelta(days=7)  # how long a reader may hold a version that has no tag
COMMIT_RETRIES = 100
PATIENCE = timedelta(minutes=5)
STAGES = {  # kind of table -> who fills it
    "latents": "encode_images",
    "masks": "encode_images",
    "pixels": "encode_images",
    "text": "encode_captions",
}


class RowTable:
    """The rows of one shape, each named by a key; a key once written never changes its row.

    Opening writes nothing: a table that is not there has no rows and appears with the first `add`.
    Threads may share a table; a forked child may not use its parent's (spawn instead).
    """

    def __init__(self, uri: str, columns: Shapes | None) -> None:
        self.uri = uri
        self._asked = columns_of(columns) if columns is not None else None
        self._pid = os.getpid()
        self._snapshot: Snapshot | None = None
        self._flat: tuple[Snapshot, FlatRows | None] | None = None
        self._files: Mapping[str, DataFile] = {}

    @classmethod
    def open(cls, root: str, name: str, columns: Shapes | None = None) -> RowTable:
        """Open table `name` of the store at `root`.

        Args:
            root: the store's place, see `location.store_root`.
            name: for example `latents-32x4x12-float32`.
            columns: of a row; a bare shape means float32; None takes those of the existing table.

        Raises:
            ValueError: the table exists with other columns.
        """
        table = cls(f"{root}/rows/{name}.lance", columns)
        table.newest()
        return table

    @property
    def kind(self) -> str:
        """What the rows are: latents, masks, pixels, text or probes."""
        return self.uri.rpartition("/")[2].partition("-")[0]

    @property
    def columns(self) -> Columns:
        """Columns of one row; empty when neither asked for nor written."""
        if self._asked is None and (dataset := self.newest()) is not None:
            self._asked = columns_in(self.uri, dataset.schema)
        return self._asked or {}

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's values as stored."""
        return sum(column.row_bytes for column in self.columns.values())

    @property
    def float_bytes(self) -> int:
        """Bytes of one row's values as `take` returns them."""
        return sum(4 * column.size for column in self.columns.values())

    @property
    def version(self) -> int:
        """Newest version of the table; 0 when nothing was ever written."""
        dataset = self.newest()
        return int(dataset.version) if dataset is not None else 0

    def tag(self, name: str) -> None:
        """Let `name` point at the version that is being read, which keeps clean-ups off it."""
        snapshot = self._refresh()
        if snapshot is None:
            raise ValueError(
                f"{self.uri} has no rows yet, so it cannot be tagged {name!r}: fill it"
            )
        tags, version = snapshot.dataset.tags, snapshot.dataset.version
        with writing(self.uri):
            try:
                tags.create(name, version)
            except ValueError as error:
                if "already exists" not in str(error):
                    raise
                tags.update(name, version)

    def keys(self) -> list[str]:
        """Return the keys of all rows, oldest first."""
        snapshot = self._refresh()
        return list(snapshot.places) if snapshot is not None else []

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return those of `keys` that have no row, each once, in order; scans the keys only."""
        snapshot = self._refresh()
        known = snapshot.places if snapshot is not None else {}
        return [key for key in dict.fromkeys(keys) if key not in known]

    def add(
        self, keys: Sequence[str], values: Mapping[str, Array], parts: Sequence[str] = ()
    ) -> int:
        """Write the rows whose keys are new in one atomic commit; return how many those were.

        Args:
            keys: one key a row.
            values: for each column the values (len(keys), *shape), float32, finite and exact in
                the column's dtype.
            parts: for each key the `keys.parts_text` that it is the hash of; none where not known.

        Raises:
            ValueError: wrong columns, shape or dtype, a value that is not finite or not exact, or
                the disk is full.
        """
        rows = to_rows(self.uri, self.columns, keys, values, parts)
        with writing(self.uri), committing(self.uri):
            num_added = undisturbed(lambda: self._merge(rows))
            undisturbed(self._compact)
        return num_added

    def take(self, keys: Sequence[str]) -> dict[str, Array]:
        """Return the rows of `keys`, in that order, as float32 (len(keys), *shape) a column.

        Raises:
            ValueError: rows are missing.
            DamagedError: rows are not what was written.
        """
        if not keys:
            return {
                name: np.empty((0, *column.shape), np.float32)
                for name, column in self.columns.items()
            }
        try:
            return self._take(self._covering(keys), keys)
        except OSError:  # a clean-up removed the version read so far; the newest has all its rows
            self._snapshot = None
        with reading(self.uri):
            return self._take(self._covering(keys), keys)

    def require(self, keys: Sequence[str]) -> None:
        """Raise ValueError when rows are missing, saying how many and what to run."""
        self._covering(keys)

    def described(self) -> pa.Table:
        """Return key, parts and time of each row, oldest first."""
        dataset = self.newest()
        if dataset is None:
            return schema_of({}).empty_table()
        with reading(self.uri):
            return dataset.to_table(columns=["key", "parts", "added"], scan_in_order=True)

    def newest(self) -> lance.LanceDataset | None:
        """Open the newest version; None when the table was never written.

        Raises:
            ValueError: it has other columns than were asked for.
        """
        self._refuse_fork()
        try:
            with reading(self.uri):
                dataset = undisturbed(lambda: lance.dataset(self.uri))
        except ValueError as error:
            if "was not found" in str(error):
                return None
            raise
        found = columns_in(self.uri, dataset.schema)
        if self._asked is not None and found != self._asked:
            raise ValueError(
                f"{self.uri} holds rows of {found!r}, but {self._asked!r} are asked for: remove the"
                " table, or point data.store elsewhere"
            )
        return dataset

    def _take(self, snapshot: Snapshot, keys: Sequence[str]) -> dict[str, Array]:
        places = np.fromiter((snapshot.places[key] for key in keys), np.int64, len(keys))
        flat = self._flat_rows(snapshot)
        if flat is not None:
            stored, sums = flat.read(snapshot.addresses[places])
        else:
            stored = gather(snapshot.dataset, self.columns, places)
            sums = checksums(stored.values())
        wrong = sums != snapshot.checksums[places]
        if wrong.any():
            name = keys[int(wrong.argmax())][:16]
            raise damaged(
                self.uri,
                f"{int(wrong.sum())} of {len(keys)} rows hold other values than were written, first"
                f" row {name!r}",
            )
        return {
            name: widen(stored[name], column.dtype).reshape(len(keys), *column.shape)
            for name, column in self.columns.items()
        }

    def _flat_rows(self, snapshot: Snapshot) -> FlatRows | None:
        """Find where the rows lie, unless known; None when Lance itself must read them."""
        found = self._flat
        if found is None or found[0] is not snapshot:
            found = snapshot, self._find_flat(snapshot)
            self._flat = found
        return found[1]

    def _find_flat(self, snapshot: Snapshot) -> FlatRows | None:
        if "://" in self.uri or not hasattr(os, "preadv"):  # an object store; Windows
            return None
        try:
            flat = FlatRows(snapshot.dataset, self.columns, self._files)
        except NotFlatError:
            return None
        self._files = flat.files
        return flat

    def _covering(self, keys: Sequence[str]) -> Snapshot:
        """Return a version that holds all `keys`: the one read so far, or else the newest."""
        self._refuse_fork()
        snapshot = self._snapshot
        if snapshot is None or not all(key in snapshot.places for key in keys):
            missing = self.missing(keys)
            snapshot = self._snapshot
            if missing or snapshot is None:
                raise ValueError(
                    f"{self.uri}: {len(missing)} of {len(set(keys))} rows are missing (first"
                    f" {''.join(missing[:1])[:16]!r}): run python -m"
                    f" stages.{STAGES.get(self.kind, self.kind)} --fill"
                )
        return snapshot

    def _refresh(self) -> Snapshot | None:
        """Read the keys of the newest version, unless known."""
        dataset = self.newest()
        if dataset is None:
            return None
        snapshot = self._snapshot
        if snapshot is None or snapshot.dataset.version != dataset.version:
            with reading(self.uri):
                snapshot = undisturbed(lambda: Snapshot.of(self._existing()))
            self._snapshot = snapshot
        return snapshot

    def _existing(self) -> lance.LanceDataset:
        dataset = self.newest()
        assert dataset is not None
        return dataset

    def _merge(self, rows: pa.Table) -> int:
        """Insert the rows whose keys are new; return their number."""
        if not rows.num_rows:
            return 0
        dataset = self.newest()
        if dataset is None:
            if self._create(rows):
                return int(rows.num_rows)
            dataset = self._existing()
        merge = dataset.merge_insert("key").when_not_matched_insert_all()
        done = merge.conflict_retries(COMMIT_RETRIES).retry_timeout(PATIENCE).execute(rows)
        return int(done["num_inserted_rows"])

    def _create(self, rows: pa.Table) -> bool:
        """Create the table with these rows; return False when another process has just created it.

        `lance.write_dataset` would overwrite what the other wrote between its look and its commit;
        an overwrite that may not be tried again fails instead, because it read no version.
        """
        version = FILE_VERSION
        try:
            begin = write_fragments(
                rows, self.uri, mode="create", data_storage_version=version, return_transaction=True
            )
            lance.LanceDataset.commit(self.uri, begin, max_retries=0)
        except OSError:
            if self.newest() is None:
                raise
            return False
        return True

    def _compact(self) -> None:
        """Merge many small files into larger ones; readers keep the version they opened."""
        dataset = self._existing()
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
