"""The rows that a store holds, by what they were made from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from stages.store.expected import Expected
from stages.store.tables import list_tables

IDENTITY = {  # the part that says what was encoded
    "latents": "content",
    "masks": "content",
    "pixels": "content",
    "text": "ids",
}
SHOWN = 12  # characters of a digest


@dataclass(frozen=True)
class Stored:
    """One row of the store.

    Attributes:
        table: its table's name.
        key: of the row.
        parts: what the key is the hash of.
        added: when.
    """

    table: str
    key: str
    parts: Mapping[str, Any]
    added: datetime

    def __str__(self) -> str:
        return f"{self.key[:SHOWN]}… in {self.table}, added {self.added:%Y-%m-%d %H:%M}"


class StoredRows:
    """All rows of one kind, found by what was encoded."""

    def __init__(self, root: str, kind: str) -> None:
        self._identity = IDENTITY[kind]
        self._rows: dict[str, list[Stored]] = {}
        for row in stored_rows(root, kind):
            self._rows.setdefault(_text(row.parts.get(self._identity)), []).append(row)

    def nearest(self, wanted: Expected) -> tuple[Stored, dict[str, tuple[Any, Any]]] | None:
        """Return the row of the same picture or tokens that differs least, and in what.

        Parts that are not known before encoding, or that the row lacks, count as equal.
        """
        rows = self._rows.get(_text(wanted.parts[self._identity]), [])
        compared = [(row, differences(wanted.parts, row.parts)) for row in rows]
        if not compared:
            return None
        return min(compared, key=lambda pair: (len(pair[1]), -pair[0].added.timestamp()))

    def holds(self, wanted: Expected) -> bool:
        """Say whether a row differs in nothing that is known."""
        found = self.nearest(wanted)
        return found is not None and not found[1]


def distinct_rows(rows: Iterable[Expected]) -> list[Expected]:
    """Return one of the rows that are made of the same."""
    return list({(row.kind, str(sorted(row.parts.items()))): row for row in rows}.values())


def missing_rows(root: str, rows: Sequence[Expected]) -> list[Expected]:
    """Return those of distinct rows that the store at `root` lacks, as far as is known."""
    stored = {kind: StoredRows(root, kind) for kind in {row.kind for row in rows}}
    return [row for row in rows if not stored[row.kind].holds(row)]


def stored_rows(root: str, kind: str | None = None) -> Iterator[Stored]:
    """Yield the rows of all tables of a kind whose parts are known."""
    for place in list_tables(root):
        if place.kind not in ([kind] if kind else IDENTITY) or not place.is_current:
            continue
        for row in place.open().described().to_pylist():
            parts = json.loads(row["parts"] or "{}")
            yield Stored(place.name, row["key"], parts, row["added"])


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the parts that are in both and differ, as pairs."""
    return {
        name: (wanted[name], found[name])
        for name in sorted(wanted.keys() & found.keys())
        if wanted[name] != found[name]
    }


def _text(part: Any) -> str:
    return json.dumps(part, sort_keys=True)
