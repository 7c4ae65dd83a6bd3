"""Read the rows that a manifest (data/latents.parquet, data/prompts.parquet) names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from stages.artifacts import read_table
from stages.rows.fill import fill
from stages.rows.layout import Array
from stages.rows.location import store_root
from stages.rows.table import RowTable
from stages.rows.uses import keys_by_table, record, tag_of
from stages.tables import PLACE, latent_name

PRELOAD_BYTES = 256 * 2**20  # a manifest whose rows take less is read once and kept in memory


class ManifestRows:
    """Rows by the name a manifest gives them: `tables.latent_name`, or a caption.

    Threads may call `take`: one that reads ahead overlaps the store with the training step.
    """

    def __init__(self, manifest: pa.Table, column: str, root: str) -> None:
        """Open the tables of `manifest`, whose `column` names the rows.

        Raises:
            ValueError: rows are missing.
        """
        columns = (manifest[name].to_pylist() for name in (column, "table", "key"))
        self._rows = {name: (table, key) for name, table, key in zip(*columns, strict=True)}
        self._column = column
        keys = keys_by_table(manifest)
        tables = {name: RowTable.open(root, name) for name in keys}
        tag = tag_of(keys)
        for name, table in tables.items():
            table.require(keys[name])
            table.tag(tag)
        num_bytes = sum(len(keys[name]) * table.float_bytes for name, table in tables.items())
        self._tables: dict[str, _Source] = dict(tables)
        if num_bytes <= PRELOAD_BYTES:
            self._tables |= {name: _InMemory(table, keys[name]) for name, table in tables.items()}

    def take(self, names: Sequence[str]) -> dict[str, Array]:
        """Return the rows of `names`, all of one table, as (len(names), *shape) for each column.

        Raises:
            ValueError: the manifest lacks a name, or the rows differ in shape.
        """
        unknown = [name for name in names if name not in self._rows]
        if unknown:
            raise ValueError(
                f"{self._column} {unknown[0]!r} is not in the manifest ({len(unknown)} of"
                f" {len(names)} are not): run dvc repro, which writes it anew"
            )
        found = [self._rows[name] for name in names]
        tables = sorted({table for table, _ in found})
        if len(tables) != 1:
            raise ValueError(
                f"rows of the tables {tables!r} were asked for at once: ask for one shape at a time"
            )
        return self._tables[tables[0]].take([key for _, key in found])


class _Source(Protocol):
    def take(self, keys: Sequence[str]) -> dict[str, Array]: ...


class _InMemory:
    """Rows of one table, read once."""

    def __init__(self, table: RowTable, keys: Iterable[str]) -> None:
        self._places = {key: place for place, key in enumerate(keys)}
        self._values = table.take(list(self._places))

    def take(self, keys: Sequence[str]) -> dict[str, Array]:
        places = [self._places[key] for key in keys]
        return {name: values[places] for name, values in self._values.items()}


def open_latents(path: Path, store: str | None) -> ManifestRows:
    """Open the rows of data/latents.parquet by `latent_name`; first encode what the store lacks."""
    manifest = read_table(path, "latents")
    names = [latent_name(row) for row in manifest.select([name for name, _ in PLACE]).to_pylist()]
    manifest = manifest.append_column("name", pa.array(names, pa.string()))
    return _open(path, manifest, "name", "encode_images", store)


def open_prompts(path: Path, store: str | None) -> ManifestRows:
    """Open the rows of data/prompts.parquet by caption, encoding first what the store lacks."""
    return _open(path, read_table(path, "prompts"), "caption", "encode_captions", store)


def _open(
    path: Path, manifest: pa.Table, column: str, stage: str, store: str | None
) -> ManifestRows:
    root, keys = store_root(store), keys_by_table(manifest)
    record(root, path, manifest)
    num_missing = sum(len(RowTable.open(root, name).missing(keys[name])) for name in keys)
    if num_missing:
        fill(path, stage, root, num_missing)
    return ManifestRows(manifest, column, root)
