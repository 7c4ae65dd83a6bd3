"""Metadata tables, and the pictures that their rows list."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.artifacts import read_json
from stages.dataset.columns import FOCAL_POINT, columns_of
from stages.dataset.form import Entry, Form, Listing
from stages.dataset.parquet import read_parquet
from stages.dataset.rows import Reading, Row, Rows, Table, reading_of
from stages.dataset.tree import Folder

EXAMPLE = '{"image": …, "caption": …}'


def list_tables(folder: Folder, tables: Sequence[str], form: Form) -> Listing:
    """List the pictures that metadata tables name; all others are left aside.

    Raises:
        ValueError: A table cannot be read, or contradicts itself, another or the parameters.
    """
    entries: dict[str, Entry] = {}
    for path in tables:
        for where, entry in _entries(folder, path, form):
            if entry.path in entries:
                raise ValueError(f"{where} lists {entry.path!r} again: keep one of the two")
            entries[entry.path] = entry
    used = {*entries, *tables}
    used.update(p for e in entries.values() for paths in e.roles.values() for p in paths)
    names = tables[0] if len(tables) == 1 else f"any of {len(tables)} metadata tables"
    unlisted = f"not listed in {names.removeprefix(folder.base)}"
    aside = {path: why or unlisted for path, why in folder.files.items() if path not in used}
    return Listing(list(entries.values()), aside | dict(folder.aside))


def _entries(folder: Folder, path: str, form: Form) -> Iterator[tuple[str, Entry]]:
    where = os.path.join(folder.root, path)
    if problem := folder.files[path]:
        raise ValueError(f"{where}: {problem}")
    reading = READERS[os.path.splitext(path)[1].lower()](Path(where), form)
    if reading.found:
        table = Table(path, folder, form, columns_of(reading.found, form, where))
        for place, row in reading.rows(table.columns):
            yield place, table.entry(row, place)


def read_array(path: Path, form: Form) -> Reading:
    """Read a JSON file that is a list of objects."""
    try:
        rows = read_json(path)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply: it must be a list of {EXAMPLE}") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds a {type(rows).__name__}: it must be a list of {EXAMPLE}")
    named = ((f"{path}: row {number}", row) for number, row in enumerate(rows, start=1))
    return reading_of([(place, _object(row, place)) for place, row in named])


def read_lines(path: Path, form: Form) -> Reading:
    """Read a file of one JSON object a line."""
    rows = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        where = f"{path}: line {number}"
        if line.strip():
            try:
                rows.append((where, _object(json.loads(line), where)))
            except (json.JSONDecodeError, RecursionError) as error:
                raise ValueError(f"{where} is not valid JSON ({error}): mend it") from None
    return reading_of(rows)


def read_csv(path: Path, form: Form) -> Reading:
    """Read a table with commas; an empty cell is none, and lists are written as in JSON."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        return reading_of(
            list(_csv_rows(reader, path, {FOCAL_POINT, "captions", *form.references}))
        )
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num} is not valid CSV ({error})") from None


def _csv_rows(reader: Any, path: Path, lists: set[str]) -> Rows:
    header: list[str] = next(reader, [])
    if len(set(header)) < len(header):
        raise ValueError(f"{path} names a column twice: {header}")
    for cells in reader:
        where = f"{path}: line {reader.line_num}"
        if not cells:
            continue
        if len(cells) != len(header):
            raise ValueError(
                f"{where} has {len(cells)} cells, but there are {len(header)} columns: put a cell "
                f"that holds a comma in quotes"
            )
        named = zip(header, cells, strict=True)
        yield where, {name: _cell(text, name in lists) for name, text in named}


def _cell(text: str, may_be_list: bool) -> Any:
    if may_be_list and text.startswith("["):
        try:
            return json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            return text
    return text or None


def _object(row: Any, where: str) -> Row:
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} is {row!r}: it must be {EXAMPLE}")
    return row


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): write it anew") from None


READERS: dict[str, Callable[[Path, Form], Reading]] = {
    ".json": read_array,
    ".jsonl": read_lines,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
NAMES = tuple(f"metadata{suffix}" for suffix in READERS)  # which are metadata wherever they lie
