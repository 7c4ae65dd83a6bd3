"""What a row looks like in Lance: its key, what that is the hash of, and its values.

Values keep the precision of the encoder that gave them; here they are always seen as float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Array: TypeAlias = npt.NDArray[np.float32]
Stored: TypeAlias = npt.NDArray[Any]  # values in the form of a column's dtype
Sums: TypeAlias = npt.NDArray[np.uint64]

STORED = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,  # its upper 16 bits
    "uint8": np.uint8,  # of masks and pixels
}
PRIMARY_KEY = {"lance-schema:unenforced-primary-key": "true"}  # without it racing writers duplicate
FLAT = {  # values lie in a file as in memory, one row after the other, see spans.py
    "lance-encoding:compression": "none",
    "lance-encoding:structural-encoding": "fullzip",
}
FILE_VERSION: Literal["2.1"] = "2.1"  # of Lance's data files: the first that heeds FLAT
OWN = ("key", "parts", "added", "checksum")


@dataclass(frozen=True)
class Column:
    """One array of each row: its shape, and the dtype it is stored in (one of STORED)."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in STORED:
            raise ValueError(f"rows of {self.dtype!r} cannot be stored: use one of {list(STORED)}")

    @cached_property
    def size(self) -> int:
        """Values a row."""
        return int(np.prod(self.shape))

    @cached_property
    def row_bytes(self) -> int:
        """Bytes a row."""
        return self.size * np.dtype(STORED[self.dtype]).itemsize


Columns: TypeAlias = Mapping[str, Column]
Shapes: TypeAlias = Mapping[str, Column | tuple[int, ...]]  # a bare shape means float32


def columns_of(shapes: Shapes) -> dict[str, Column]:
    """Return the columns that `shapes` names."""
    return {
        name: given if isinstance(given, Column) else Column(tuple(given))
        for name, given in shapes.items()
    }


def schema_of(columns: Columns) -> pa.Schema:
    """Return the schema of rows with these columns; a field's metadata says shape and dtype."""
    fields = [
        pa.field("key", pa.string(), nullable=False, metadata=PRIMARY_KEY),
        pa.field("parts", pa.string(), nullable=False),  # keys.parts_text; "" where not known
        pa.field("added", pa.timestamp("s", "UTC"), nullable=False),
        pa.field("checksum", pa.uint64(), nullable=False),  # see `checksums`
    ]
    for name, column in columns.items():
        kind = pa.list_(pa.from_numpy_dtype(STORED[column.dtype]), column.size)
        shape = "x".join(map(str, column.shape))
        metadata = {"shape": shape, "dtype": column.dtype, **FLAT}
        fields.append(pa.field(name, kind, nullable=False, metadata=metadata))
    return pa.schema(fields)


def is_current(schema: pa.Schema) -> bool:
    """Say whether the table was written by this version of the code."""
    return set(OWN) <= set(schema.names)


def columns_in(where: str, schema: pa.Schema) -> dict[str, Column]:
    """Return the columns that `schema_of` wrote down.

    Raises:
        ValueError: the table was written by an older version of this code.
    """
    if not is_current(schema):
        raise ValueError(
            f"{where} has the columns {schema.names!r} of an older diffbase: remove it with"
            " `python -m stages.store gc`; its rows are encoded again where they are needed"
        )
    return {
        field.name: Column(
            tuple(int(size) for size in field.metadata[b"shape"].decode().split("x") if size),
            field.metadata[b"dtype"].decode(),
        )
        for field in schema
        if field.name not in OWN
    }


def to_rows(
    where: str,
    columns: Columns,
    keys: Sequence[str],
    values: Mapping[str, Array],
    parts: Sequence[str],
) -> pa.Table:
    """Check the values and lay them out as rows; of a key given twice the first row counts.

    Args:
        where: the table, for messages.
        columns: of the table.
        keys: one a row.
        values: float32 arrays (rows, *shape) that the columns' dtypes represent exactly.
        parts: what each key is the hash of, or nothing.

    Raises:
        ValueError: wrong columns, shape or dtype, or a value that is not finite or not exact.
    """
    if set(values) != set(columns):
        raise ValueError(
            f"{where}: columns {sorted(values)!r} were given, {sorted(columns)!r} are expected:"
            " pass one array a column"
        )
    if parts and len(parts) != len(keys):
        raise ValueError(f"{where}: {len(keys)} keys were given with {len(parts)} parts")
    first = list({key: place for place, key in reversed(list(enumerate(keys)))}.values())[::-1]
    texts = [parts[place] if parts else "" for place in first]
    stored = {}
    for name, column in columns.items():
        array = values[name]
        if array.shape != (len(keys), *column.shape) or array.dtype != np.float32:
            raise ValueError(
                f"{where}: column {name!r} was given {array.dtype} {array.shape}, expected float32"
                f" {(len(keys), *column.shape)}: encode to the table's shape"
            )
        refuse_not_finite(where, name, keys, array)
        chosen = np.ascontiguousarray(array[first]).reshape(len(first), column.size)
        stored[name] = narrow(f"{where}: column {name!r}", chosen, column.dtype)
    arrays = [
        pa.array([keys[place] for place in first], pa.string()),
        pa.array(texts, pa.string()),
        pa.array([datetime.now(timezone.utc)] * len(first), pa.timestamp("s", "UTC")),
        pa.array(checksums(stored.values())),
    ]
    for name, column in columns.items():
        flat = pa.array(stored[name].reshape(-1))
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, column.size))
    return pa.Table.from_arrays(arrays, schema=schema_of(columns))


def narrow(where: str, values: Array, dtype: str) -> Stored:
    """Return finite float32 `values` in the form of `dtype`.

    Raises:
        ValueError: `dtype` does not represent a value exactly.
    """
    if dtype == "float32":
        return values
    narrowed: Stored
    if dtype == "bfloat16":
        narrowed = (values.view(np.uint32) >> 16).astype(np.uint16)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            narrowed = values.astype(STORED[dtype])
    changed = widen(narrowed, dtype) != values
    if changed.any():
        raise ValueError(
            f"{where} is stored as {dtype}, but {int(changed.sum())} of {values.size} values are"
            f" not exact in it (first {float(values[changed][0])!r}): encode in {dtype}"
        )
    return narrowed


def widen(stored: Stored, dtype: str) -> Array:
    """Return stored values as float32, exactly."""
    if dtype == "bfloat16":
        wide = stored.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return stored.astype(np.float32, copy=False)


def checksums(arrays: Iterable[Stored]) -> Sums:
    """Return for each row the sum of all its bytes, read as words, modulo 2**64.

    It costs a tenth of the copy that reads the row, finds each single wrong word, and says after
    reading what finiteness and shape said before writing.
    """
    sums = [words(array).sum(axis=1, dtype=np.uint64) for array in arrays]
    total: Sums = np.sum(sums, axis=0, dtype=np.uint64)
    return total


def words(array: Stored) -> npt.NDArray[Any]:
    """View contiguous rows as the largest words that fill a row."""
    row_bytes = array.itemsize * array.shape[1]
    size = next(size for size in (8, 4, 2, 1) if row_bytes % size == 0)
    return array.view(f"u{size}")


def refuse_not_finite(where: str, column: str, keys: Sequence[str], values: Array) -> None:
    """Raise ValueError when a value is NaN or infinite, naming the first of the rows."""
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{where}: {int(bad.sum())} of {len(values)} rows hold values of {column!r} that are"
            f" not finite (first row {keys[int(bad.argmax())][:16]!r}): check the encoder's weights"
            " and model.dtype"
        )
