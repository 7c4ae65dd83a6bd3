"""The rows of a parquet table, without the bytes of its pictures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.dataset.cells import first_line
from stages.dataset.columns import Columns
from stages.dataset.form import Form
from stages.dataset.rows import Held, Reading, Rows

DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)  # what Arrow raises on a damaged table


def read_parquet(path: Path, form: Form) -> Reading:
    """Open a table whose pictures are paths, bytes, or {bytes, path} as `datasets` writes them.

    Raises:
        OSError: It may not be read.
        ValueError: It is no parquet table.
    """
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno:  # it may not be read
            raise
        raise ValueError(f"{path} is no parquet table ({first_line(error)}): get it anew") from None
    if len(set(names)) < len(names):
        raise ValueError(f"{path} names a column twice: {names}")
    return Reading(dict.fromkeys(names, str(path)), partial(_rows, file, path))


def _rows(file: pq.ParquetFile, path: Path, columns: Columns) -> Rows:
    names = [name for name in columns.all if name in file.schema_arrow.names]
    first = 0
    for group in range(file.num_row_groups):
        try:
            cells = {name: list(_cells(file, group, name, columns, first)) for name in names}
        except DAMAGE as error:
            raise ValueError(
                f"{path}: row group {group} is damaged ({first_line(error)})"
            ) from None
        num_rows = file.metadata.row_group(group).num_rows
        for row in range(num_rows):
            place = f"{path}: row {first + row}"
            yield place, {name: values[row] for name, values in cells.items()}
        first += num_rows


def _cells(
    file: pq.ParquetFile, group: int, name: str, columns: Columns, first: int
) -> Iterator[Any]:
    """Give the values of a column; pictures in it become `Held`."""
    if name not in columns.pictures or not _holds_bytes(file.schema_arrow.field(name).type):
        yield from file.read_row_group(group, columns=[name])[name].to_pylist()
        return
    suffix = "" if name == columns.image else f"/{name}"
    for number, value in enumerate(_shells(file, group, name), start=first):
        held = f"{number}{suffix}"
        if isinstance(value, list):
            yield [_cell(each, f"{held}/{index}") for index, each in enumerate(value)]
        else:
            yield _cell(value, held)


def _cell(value: Any, held: str) -> Any:
    if isinstance(value, dict):
        return Held(held) if value.get("bytes") is not None else value.get("path")
    return Held(held) if isinstance(value, bytes) else value


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_bytes(kind.value_type)
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _shells(file: pq.ParquetFile, group: int, name: str) -> list[Any]:
    """Read a column with b"" for the bytes of each picture, where the statistics allow it.

    They count what has no bytes: rows without a picture, empty lists, and pictures by path. The
    column `path` beside the bytes tells the first two, so that equal counts mean no third.
    """
    leaves = {file.schema.column(i).path: i for i in range(len(file.schema))}
    mine = [leaf for leaf in leaves if leaf.startswith(f"{name}.")]
    paths = [leaf for leaf in mine if leaf.endswith(".path")]
    held = [leaf for leaf in mine if leaf.endswith(".bytes")]
    if len(paths) == len(held) == 1:
        statistics = file.metadata.row_group(group).column(leaves[held[0]]).statistics
        values = file.read_row_group(group, columns=paths)[name].to_pylist()
        if (
            statistics is not None
            and statistics.has_null_count
            and statistics.null_count == sum(map(_absent, values))
        ):
            return [_filled(value) for value in values]
    return list(file.read_row_group(group, columns=[name])[name].to_pylist())


def _absent(value: Any) -> int:
    """Count the places of a cell that have no picture at all."""
    if isinstance(value, list):
        return sum(map(_absent, value)) or int(not value)
    return int(value is None)


def _filled(value: Any) -> Any:
    if isinstance(value, list):
        return [_filled(each) for each in value]
    return None if value is None else {"bytes": b""}
