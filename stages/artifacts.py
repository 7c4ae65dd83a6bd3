"""Outputs of stages: written whole or not at all, with bytes that depend on the content alone."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.tables import SCHEMA_VERSION, SCHEMAS

OWN_METADATA = ("schema", "version")


@contextmanager
def staging(path: Path) -> Iterator[Path]:
    """Yield a hidden sibling of `path` (file or folder) that takes its place if all goes well.

    The caller creates the sibling as a file or makes it a folder. On an error it is removed and
    `path` stays as it was; what a killed process left behind is removed at the next start.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.partial")
    _remove(staged)
    try:
        yield staged
        _replace(staged, path)
    finally:
        _remove(staged)


def _replace(staged: Path, path: Path) -> None:
    if staged.is_file():
        with staged.open("rb") as file:
            os.fsync(file.fileno())
    if path.is_dir() and not path.is_symlink():  # a folder cannot be renamed over a full one
        shutil.rmtree(path)
    os.replace(staged, path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with line feeds on every system."""
    with staging(path) as staged:
        staged.write_bytes(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` with sorted keys, indented, with a newline at the end; NaN is refused."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a file that is not JSON is one sentence with the line and column."""
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}): mend the file or write it anew"
        ) from None


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a header line and one line a row, the form DVC plots."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def write_table(
    path: Path, table: pa.Table, schema_name: str, extra: Mapping[str, str] | None = None
) -> None:
    """Write `table` as parquet with the same bytes for the same rows, order and metadata.

    Args:
        path: The parquet file.
        table: Columns as in `tables.SCHEMAS[schema_name]`.
        schema_name: Recorded in the file's metadata, as is its version.
        extra: What made the table (digest of an encoder, a family): more metadata.
    """
    _compare(table.schema, schema_name, f"the table for {path}")
    metadata = {"schema": schema_name, "version": SCHEMA_VERSION, **(extra or {})}
    table = table.combine_chunks().replace_schema_metadata(dict(sorted(metadata.items())))
    with staging(path) as staged:
        pq.write_table(table, staged, compression="zstd", version="2.6", row_group_size=1 << 20)


def read_table(path: Path, schema_name: str) -> pa.Table:
    """Read a table that `write_table` wrote and refuse any other schema, printing both.

    Raises:
        FileNotFoundError: The stage that writes the table has not run.
        ValueError: The file is no parquet file, or has another schema name, version or columns.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: run `dvc repro`, which makes it")
    try:
        table = pq.ParquetFile(path).read()
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path} is not a parquet file ({error}): delete it, run `dvc repro`"
        ) from None
    found = _metadata(table)
    wanted = {"schema": schema_name, "version": SCHEMA_VERSION}
    if {name: found.get(name) for name in wanted} != wanted:
        raise ValueError(
            f"{path} holds table {found.get('schema')!r} version {found.get('version')!r}, but "
            f"{schema_name!r} version {SCHEMA_VERSION!r} is needed: run `dvc repro`"
        )
    _compare(table.schema, schema_name, str(path))
    return table


def extra_metadata(table: pa.Table) -> dict[str, str]:
    """Return what `write_table` was given as `extra`."""
    return {name: text for name, text in _metadata(table).items() if name not in OWN_METADATA}


def _metadata(table: pa.Table) -> dict[str, str]:
    raw = table.schema.metadata or {}
    return {name.decode(): text.decode() for name, text in raw.items()}


def _compare(found: pa.Schema, schema_name: str, where: str) -> None:
    wanted = SCHEMAS[schema_name]
    if not found.equals(wanted, check_metadata=False):
        raise ValueError(
            f"{where} does not have the columns of {schema_name!r}; it has\n"
            f"{found.to_string(show_schema_metadata=False)}\nbut needed are\n{wanted.to_string()}"
        )


def sha256_file(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """Return the hex digest of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()
