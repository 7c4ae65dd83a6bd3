"""Print what the store holds, and what encoding will add to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table

from stages.rows.location import free_bytes
from stages.rows.uses import Use, read_uses
from stages.store.clean import Unused
from stages.store.expected import Expected
from stages.store.stored import distinct_rows, missing_rows
from stages.store.tables import PROBES, Place, list_tables


def report(root: str, present: Mapping[str, set[str]]) -> list[Table]:
    """Describe the tables of the store at `root`, and the last runs that used it.

    Args:
        root: the store's place.
        present: keys of each table that this workspace names.
    """
    uses = read_uses(root)
    places = list_tables(root)
    rows = [_row(place, present, uses) for place in places if place.kind != PROBES]
    probes = [place for place in places if place.kind == PROBES]
    if probes:
        num_bytes = sum(place.num_bytes() for place in probes)
        rows.append([f"{PROBES} ({len(probes)} tables)", "", "", size(num_bytes), "", ""])
    headers = ["table", "rows", "a row", "on disk", "named here", "named nowhere"]
    return [_table(root, headers, rows), _runs(uses)]


def forecast(root: str, expected: Sequence[Expected]) -> Table:
    """Say how many rows encoding will add, and whether there is room."""
    lines = []
    for kind in sorted({row.kind for row in expected}):
        distinct = distinct_rows(row for row in expected if row.kind == kind)
        lacking = missing_rows(root, distinct)
        known = [row.num_bytes for row in lacking if row.num_bytes is not None]
        needed = size(sum(known)) if len(known) == len(lacking) else "not known before encoding"
        lines.append([kind, str(len(lacking)), str(len(distinct) - len(lacking)), needed])
    free = free_bytes(root)
    title = root if free is None else f"{root}: {size(free)} free"
    return _table(title, ["rows of", "to encode", "to reuse", "bytes"], lines)


def preview(unused: Iterable[Unused]) -> Table:
    """Say what a clean-up would remove."""
    lines = [
        [each.place.name, str(each.num_rows), size(each.num_bytes), _moment(each.last_used)]
        for each in unused
    ]
    return _table("unused rows", ["table", "rows", "bytes", "last used"], lines)


def show(tables: Iterable[Table]) -> None:
    """Print tables on stdout, as wide as they need where that is no terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    for table in tables:
        console.print(table)


def size(num_bytes: int) -> str:
    """Write bytes with three digits or so."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} B"


def _row(place: Place, present: Mapping[str, set[str]], uses: Sequence[Use]) -> list[str]:
    if not place.is_current:
        return [place.name, "", "of an older diffbase", size(place.num_bytes()), "", "all"]
    table = place.open()
    keys = set(table.keys())
    here = present.get(place.name, set())
    known = here.union(*(use.keys.get(place.name, ()) for use in uses))
    columns = (
        f"{name} {'x'.join(map(str, column.shape))} {column.dtype}"
        for name, column in table.columns.items()
    )
    counts = [str(len(keys & here)), str(len(keys - known))]
    return [place.name, str(len(keys)), ", ".join(columns), size(place.num_bytes()), *counts]


def _runs(uses: Sequence[Use]) -> Table:
    lines = [
        [
            use.manifest,
            _moment(use.used),
            "unfinished" if use.encoded is None else str(use.encoded),
            "" if use.reused is None else str(use.reused),
        ]
        for use in uses
    ]
    return _table("manifests", ["file", "last used", "encoded", "reused"], lines)


def _moment(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _table(title: str, headers: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for header in headers:
        table.add_column(header, overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table
