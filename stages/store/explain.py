"""Say of a picture, caption or key whether its rows exist, and why they will be encoded if not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stages.artifacts import read_table
from stages.rows.uses import read_uses
from stages.store.expected import Expected, keeps_pictures
from stages.store.stored import SHOWN, Stored, StoredRows, stored_rows

LEDGERS = tuple(Path(f"data/ledger/{name}.parquet") for name in ("ingest", "captions", "bucket"))
KEY = re.compile("[0-9a-f]{6,64}")


def explain(
    root: str, asked: str, expected: Sequence[Expected], workspace: Path = Path()
) -> Iterator[str]:
    """Yield what is to be said of `asked`, line by line.

    Args:
        root: the store's place.
        asked: a picture's path, a sample id, the name of a row, a caption, or a key's beginning.
        expected: the rows that the workspace needs.
        workspace: the folder with its data.

    Raises:
        ValueError: nothing is called so.
    """
    meant = [row for row in expected if asked == row.name or _plain(asked) in row.aliases]
    if meant:
        rows = {kind: StoredRows(root, kind) for kind in {row.kind for row in meant}}
        for row in meant:
            yield f"{row.name!r}: {_say(row, rows[row.kind])}"
        return
    keys = [row for row in stored_rows(root) if KEY.fullmatch(asked) and row.key.startswith(asked)]
    for found in keys:
        yield from _describe(root, found)
    fates = list(_fates(_plain(asked), workspace))
    yield from fates
    if not keys and not fates:
        if not keeps_pictures(workspace):
            yield "data.cache_latents is false: training encodes pictures, and they have no rows"
            return
        raise ValueError(
            f"{asked!r} is no picture of data/buckets.parquet, no caption of data/captions.parquet"
            " and no beginning of a key (6 hex digits or more): give a path as in the dataset, a"
            " sample id, a caption or a key"
        )


def _plain(asked: str) -> str:
    return asked.removeprefix("./")


def _say(row: Expected, rows: StoredRows) -> str:
    found = rows.nearest(row)
    if found is None:
        return "will be encoded: the store has no row of it"
    stored, differing = found
    if not differing:
        return f"is stored as {stored}"
    reasons = ", ".join(
        f"{name}: {_short(now)} was {_short(was)}" for name, (now, was) in differing.items()
    )
    return f"will be encoded: {reasons} in the nearest row, {stored}"


def _short(part: Any) -> str:
    text = str(part["sha256"] if isinstance(part, dict) else part)
    return f"{text[:SHOWN]}…" if re.fullmatch("[0-9a-f]{40,}", text) else text


def _describe(root: str, row: Stored) -> Iterator[str]:
    yield f"{row}:"
    for name, part in sorted(row.parts.items()):
        yield f"  {name}: {part}"
    for use in read_uses(root):
        if row.key in use.keys.get(row.table, ()):
            yield f"  used by {use.manifest}, last {use.used:%Y-%m-%d %H:%M}"


def _fates(path: str, workspace: Path) -> Iterator[str]:
    """Yield what became of a file that has no row to come."""
    for ledger in LEDGERS:
        if (workspace / ledger).is_file():
            for row in read_table(workspace / ledger, "ledger").to_pylist():
                if path in (row["path"], row["sample_id"]) and row["reason"]:
                    yield f"{row['path']}: {row['fate']} by {row['stage']}: {row['reason']}"
