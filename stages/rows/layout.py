"""What a row looks like in Lance: a key and one fixed-size list of float32 a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Array: TypeAlias = npt.NDArray[np.float32]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

PRIMARY_KEY = {"lance-schema:unenforced-primary-key": "true"}  # without it racing writers duplicate


def schema_of(columns: Shapes) -> pa.Schema:
    """Return the schema of rows with these column shapes; a field's metadata says its shape."""
    fields = [pa.field("key", pa.string(), nullable=False, metadata=PRIMARY_KEY)]
    for name, shape in columns.items():
        kind = pa.list_(pa.float32(), int(np.prod(shape)))
        text = "x".join(map(str, shape))
        fields.append(pa.field(name, kind, nullable=False, metadata={"shape": text}))
    return pa.schema(fields)


def shapes_of(schema: pa.Schema) -> dict[str, tuple[int, ...]]:
    """Return the column shapes that `schema_of` wrote down."""
    shapes = {field.name: field.metadata for field in schema if field.name != "key"}
    return {
        name: tuple(int(size) for size in metadata[b"shape"].decode().split("x"))
        for name, metadata in shapes.items()
    }


def to_rows(
    where: str, columns: Shapes, keys: Sequence[str], values: Mapping[str, Array]
) -> pa.Table:
    """Check the values and lay them out as rows; of a key given twice the first row counts.

    Raises:
        ValueError: wrong columns, shape or dtype, or a value that is not finite.
    """
    if set(values) != set(columns):
        raise ValueError(
            f"{where}: columns {sorted(values)!r} were given, {sorted(columns)!r} are expected:"
            " pass one array a column"
        )
    first = list({key: place for place, key in reversed(list(enumerate(keys)))}.values())[::-1]
    arrays: list[pa.Array] = [pa.array([keys[place] for place in first], pa.string())]
    for name, shape in columns.items():
        array = values[name]
        if array.shape != (len(keys), *shape) or array.dtype != np.float32:
            raise ValueError(
                f"{where}: column {name!r} was given {array.dtype} {array.shape}, expected float32"
                f" {(len(keys), *shape)}: encode to the table's shape"
            )
        refuse_not_finite(where, name, keys, array)
        flat = pa.array(np.ascontiguousarray(array[first]).reshape(-1))
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, int(np.prod(shape))))
    return pa.Table.from_arrays(arrays, schema=schema_of(columns))


def to_array(column: pa.ChunkedArray, shape: tuple[int, ...]) -> Array:
    """Return a column's values as (rows, *shape)."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    array: Array = flat.reshape(len(column), *shape)
    return array


def refuse_not_finite(where: str, column: str, keys: Sequence[str], values: Array) -> None:
    """Raise ValueError when a value is NaN or infinite, naming the first of the rows."""
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{where}: {int(bad.sum())} of {len(values)} rows hold values of {column!r} that are"
            f" not finite (first row {keys[int(bad.argmax())][:16]!r}): check the encoder's weights"
            " and model.dtype"
        )
