"""The pictures in the cells of parquet tables, read one row group at a time."""

from __future__ import annotations

import bisect
import errno
import itertools
import threading
from collections import OrderedDict
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

CACHE_BYTES = 1 << 30  # of pictures that stay in memory; the last group does in any case
IMAGE = "image"  # the column of a row's own picture
TABLES = 256  # footers that are kept

Group = tuple[str, tuple[int, int, int], int, str]  # file, its stamp, row group, column


def read_cell(place: str, stamp: tuple[int, int, int], cell: str) -> bytes:
    """Read "12", "12/mask" or "12/reference/1" of the parquet table `place`.

    Raises:
        OSError: The table cannot be read, or has no such picture.
    """
    number, _, column = cell.partition("/")
    try:
        names, starts = _footer(place, stamp)
        element = None
        if column not in names and (parts := column.rpartition("/"))[0] in names:
            column, element = parts[0], int(parts[2])
        row = int(number)
        group = bisect.bisect_right(starts, row) - 1
        values = GROUPS.read((place, stamp, group, column or IMAGE))
        value = values[row - starts[group]].as_py()
        value = value if element is None else value[element]
    except (KeyError, IndexError, TypeError, pa.ArrowKeyError):
        raise FileNotFoundError(errno.ENOENT, "the table has no such cell", cell) from None
    except (pa.ArrowException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the file may not be read
            raise
        raise OSError(errno.EIO, f"the table is damaged ({first_line(error)})", cell) from None
    data = value["bytes"] if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise FileNotFoundError(errno.ENOENT, "the cell holds no picture", cell)
    return data


def first_line(error: Exception) -> str:
    """Give what Arrow says of a damaged table, without its advice."""
    return str(error).partition("\n")[0]


@lru_cache(maxsize=TABLES)
def _footer(place: str, stamp: tuple[int, int, int]) -> tuple[frozenset[str], list[int]]:
    """Give the names of the columns, and the first row of each row group."""
    with pq.ParquetFile(place) as file:
        groups = range(file.num_row_groups)
        sizes = [file.metadata.row_group(group).num_rows for group in groups]
        return frozenset(file.schema_arrow.names), [0, *itertools.accumulate(sizes)][:-1]


class Groups:
    """Columns of row groups, of which the last used stay in memory; one is read at a time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit  # bytes
        self.kept: OrderedDict[Group, pa.ChunkedArray] = OrderedDict()
        self.lock = threading.Lock()  # several threads want the same group at once

    def read(self, group: Group) -> pa.ChunkedArray:
        """Read a column of a row group, or give it again."""
        with self.lock:
            if group not in self.kept:
                place, _, number, column = group
                with pq.ParquetFile(place) as file:
                    self.kept[group] = file.read_row_group(number, columns=[column])[column]
                while len(self.kept) > 1 and self._bytes() > self.limit:
                    self.kept.popitem(last=False)
            self.kept.move_to_end(group)
            return self.kept[group]

    def _bytes(self) -> int:
        return sum(values.nbytes for values in self.kept.values())


GROUPS = Groups(CACHE_BYTES)
