"""Read rows of a local table from where they lie in its data files, straight into an array.

Lance's own take costs half a millisecond a call and copies each value three times; a row that Lance
laid flat (layout.FLAT) is one read at one place. The caller checks what is read (checksums).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import lance
import numpy as np
import numpy.typing as npt
from lance.file import LanceFileReader

from stages.rows.layout import STORED, Columns, Stored, Sums, words

MAX_OPEN = 256  # data files of a table that stay open; others are opened for each read
OFFSET_BITS = 32  # a row's address is its fragment's id and then its place in the fragment

Addresses: TypeAlias = npt.NDArray[np.int64]


class NotFlatError(ValueError):
    """A data file whose rows do not lie flat."""


class DataFile:
    """A data file and where the pages of each column begin in it.

    Attributes:
        path: of the file.
        descriptor: of the file when it is kept open; it reads even after the file is deleted.
        pages: for each column the first row and the first byte of each page.
    """

    def __init__(
        self, path: Path, num_bytes: int | None, columns: Columns, keep_open: bool
    ) -> None:
        """Read the file's own table of contents.

        Raises:
            NotFlatError: a column does not lie flat in it.
            OSError: the file is gone or has another size.
        """
        found = path.stat().st_size
        if found != num_bytes and (num_bytes or not found):  # Lance panics over an empty file
            raise OSError(f"{path} has {found} bytes, {num_bytes} were written")
        contents = LanceFileReader(str(path)).metadata()
        self.path = path
        self.pages: dict[str, list[tuple[int, int]]] = {}
        for name, column in columns.items():
            place, num_rows = contents.schema.names.index(name), 0
            self.pages[name] = []
            for page in contents.columns[place].pages:
                self.pages[name].append((num_rows, page.buffers[0].position))
                num_rows += page.buffers[0].size // column.row_bytes
                if len(page.buffers) != 1 or page.buffers[0].size % column.row_bytes:
                    raise NotFlatError(f"{path}: column {name!r} does not lie flat")
            if num_rows != contents.num_rows:
                raise NotFlatError(f"{path}: column {name!r} does not lie flat")
        self.descriptor = os.open(path, os.O_RDONLY) if keep_open else None
        if self.descriptor is not None:
            weakref.finalize(self, os.close, self.descriptor)


class FlatRows:
    """The rows of one version of a table, by address."""

    def __init__(
        self, dataset: lance.LanceDataset, columns: Columns, known: Mapping[str, DataFile]
    ) -> None:
        """Find the pages of the version's data files; `known` files are not read again.

        Raises:
            NotFlatError: some rows do not lie flat.
        """
        self._columns = columns
        self.files: dict[str, DataFile] = {}
        fragments = []
        for fragment in sorted(dataset.get_fragments(), key=lambda some: some.fragment_id):
            files = fragment.data_files()
            if len(files) != 1:
                raise NotFlatError(f"{dataset.uri}: a fragment lies in {len(files)} files")
            name, folder = files[0].path, Path(dataset.uri) / "data"
            self.files[name] = known.get(name) or DataFile(
                folder / name,
                files[0].file_size_bytes,
                columns,
                keep_open=len(self.files) < MAX_OPEN,
            )
            fragments.append((fragment.fragment_id << OFFSET_BITS, self.files[name]))
        self._pages = {name: _Pages(fragments, name) for name in columns}

    def read(self, addresses: Addresses) -> tuple[dict[str, Stored], Sums]:
        """Return for each column the stored values (len(addresses), size), and the checksums.

        Raises:
            OSError: a file is gone, or ends too early.
        """
        order, sums = np.argsort(addresses), np.zeros(len(addresses), np.uint64)
        values = {}
        for name, column in self._columns.items():
            array: Stored = np.empty((len(addresses), column.size), STORED[column.dtype])
            sums += self._pages[name].read(addresses, order, array)
            values[name] = array
        return values, sums


class _Pages:
    """All pages of one column: arrays with one value a page."""

    def __init__(self, fragments: list[tuple[int, DataFile]], name: str) -> None:
        pages = [
            (first + row, byte, file) for first, file in fragments for row, byte in file.pages[name]
        ]
        self.first_rows = np.array([row for row, _, _ in pages], np.int64)
        self.first_bytes = np.array([byte for _, byte, _ in pages], np.int64)
        self.files = [file for _, _, file in pages]

    def read(self, addresses: Addresses, order: Addresses, values: Stored) -> Sums:
        """Read rows into `values`; sum each up while it is still in the CPU's cache."""
        pages = np.searchsorted(self.first_rows, addresses, "right") - 1
        row_bytes = values.itemsize * values.shape[1]
        places = self.first_bytes[pages] + (addresses - self.first_rows[pages]) * row_bytes
        row_words, sums = words(values), np.zeros(len(values), np.uint64)
        columns = order.tolist(), pages[order].tolist(), places[order].tolist()
        ordered = list(zip(*columns, strict=True))
        for _, page, place in ordered:
            _announce(self.files[page], place, row_bytes)
        for row, page, place in ordered:
            _fill(self.files[page], values[row], place)
            sums[row] = np.add.reduce(row_words[row], dtype=np.uint64)
        return sums


def _announce(file: DataFile, place: int, num_bytes: int) -> None:
    """Let the disk begin to read: twice as fast where the page cache lacks the rows."""
    if file.descriptor is not None and hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(file.descriptor, place, num_bytes, os.POSIX_FADV_WILLNEED)


def _fill(file: DataFile, row: Stored, place: int) -> None:
    descriptor = file.descriptor
    opened = os.open(file.path, os.O_RDONLY) if descriptor is None else descriptor
    try:
        num_bytes = os.preadv(opened, [row.data], place)
    finally:
        if descriptor is None:
            os.close(opened)
    if num_bytes != row.nbytes:
        raise OSError(f"{file.path} ends too early")
