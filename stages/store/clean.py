"""Remove rows that nobody has used for long, and give their bytes back.

An encoder may run at the same time: it names its rows before it encodes (rows.uses), and rows that
are younger than a day are kept though nobody names them. A trainer keeps the files it has open, or
goes on with the newest version of a table, which has all rows in use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial

import lance
import pyarrow as pa
import pyarrow.compute as pc

from stages.rows.commits import committing, removable_after, removing
from stages.rows.faults import reading, undisturbed, writing
from stages.rows.table import COMMIT_RETRIES, FRAGMENT_BYTES, PATIENCE
from stages.rows.uses import Use, forget, read_uses
from stages.store.tables import PROBES, Place, list_tables

GRACE = timedelta(days=1)  # age below which a row is kept though nobody names it (yet)
KEYS_A_COMMIT = 5000


@dataclass(frozen=True)
class Unused:
    """Rows of one table that can go.

    Attributes:
        place: of the table.
        keys: of the rows; None stands for the whole table, of an older version of the code.
        num_rows: how many.
        num_bytes: of their values.
        last_used: when they were last used; None when no record names them.
    """

    place: Place
    keys: Sequence[str] | None
    num_rows: int
    num_bytes: int
    last_used: datetime | None


def find_unused(
    root: str,
    present: Mapping[str, set[str]],
    unused_for: timedelta,
    grace: timedelta = GRACE,
    tables: Iterable[Place] | None = None,
) -> list[Unused]:
    """Find the rows that no manifest used lately names; change nothing.

    Args:
        root: the store's place.
        present: keys of each table that this workspace names; they are kept.
        unused_for: a manifest used within this time keeps its rows.
        grace: a row younger than this is kept.
        tables: look at these only.
    """
    now, uses = datetime.now(timezone.utc), read_uses(root)
    live = [use for use in uses if now - use.used <= unused_for]
    found = []
    for place in list_tables(root) if tables is None else tables:
        if place.kind == PROBES:
            continue
        if not place.is_current:
            num_rows = lance.dataset(place.uri).count_rows()
            found.append(Unused(place, None, num_rows, place.num_bytes(), None))
            continue
        kept = present.get(place.name, set()).union(*(use.keys.get(place.name, ()) for use in live))
        keys = [key for key in _older_than(place, now - grace) if key not in kept]
        if keys:
            num_bytes = len(keys) * place.open().row_bytes
            found.append(Unused(place, keys, len(keys), num_bytes, _last_used(place, keys, uses)))
    return found


def clean(
    root: str, present: Mapping[str, set[str]], unused_for: timedelta, grace: timedelta = GRACE
) -> int:
    """Remove what `find_unused` finds and all that only older versions need; return freed bytes.

    Killed at any moment it leaves whole tables, and doing it again does the rest.
    """
    before = _num_bytes(root)
    for place in list_tables(root):
        for unused in find_unused(root, present, unused_for, grace, [place]):  # as of now
            if unused.keys is None:
                place.remove()
            else:
                remove_rows(place, unused.keys)
    now = datetime.now(timezone.utc)
    uses = read_uses(root)
    live = {use.tag for use in uses if now - use.used <= unused_for}
    for place in list_tables(root):
        if place.is_current:
            _shrink(place, live)
    forget(root, [use.tag for use in uses if use.tag not in live])
    return before - _num_bytes(root)


def _older_than(place: Place, moment: datetime) -> list[str]:
    with reading(place.uri):
        rows = undisturbed(lambda: lance.dataset(place.uri).to_table(columns=["key", "added"]))
    old = pc.less_equal(rows["added"], pa.scalar(moment, rows["added"].type))
    keys: list[str] = rows.filter(old)["key"].to_pylist()
    return keys


def _last_used(place: Place, keys: Sequence[str], uses: Sequence[Use]) -> datetime | None:
    gone = set(keys)
    naming = (use.used for use in uses if not gone.isdisjoint(use.keys.get(place.name, ())))
    return max(naming, default=None)


def remove_rows(place: Place, keys: Sequence[str]) -> None:
    """Remove the rows of these keys; older versions of the table still hold them."""
    for start in range(0, len(keys), KEYS_A_COMMIT):
        with writing(place.uri), committing(place.uri):
            undisturbed(partial(_remove_listed, place, keys[start : start + KEYS_A_COMMIT]))


def _remove_listed(place: Place, keys: Sequence[str]) -> None:
    listed = ", ".join(f"'{key}'" for key in keys)
    lance.dataset(place.uri).delete(
        f"key IN ({listed})", conflict_retries=COMMIT_RETRIES, retry_timeout=PATIENCE
    )


def _shrink(place: Place, live: set[str]) -> None:
    """Rewrite files that hold removed rows, and drop the versions that still need the old ones."""
    with writing(place.uri):
        with committing(place.uri):
            undisturbed(lambda: _compact(place))
        undisturbed(lambda: _move_tags(place, live))
        with removing(place.uri):
            lance.dataset(place.uri).cleanup_old_versions(
                removable_after(place.uri), error_if_tagged_old_versions=False
            )


def _compact(place: Place) -> None:
    full = max(1, FRAGMENT_BYTES // max(1, place.open().row_bytes))
    try:
        lance.dataset(place.uri).optimize.compact_files(
            target_rows_per_fragment=full, materialize_deletions_threshold=0.0
        )
    except OSError as error:
        if "conflict" not in str(error).lower():  # another process compacts: its work serves us
            raise


def _move_tags(place: Place, live: set[str]) -> None:
    """Let the tags of manifests in use point at the newest version, and drop the others'."""
    dataset = lance.dataset(place.uri)
    for name in dataset.tags.list():
        if name in live:
            dataset.tags.update(name, dataset.version)
        elif name.startswith("manifest-"):
            dataset.tags.delete(name)


def _num_bytes(root: str) -> int:
    return sum(place.num_bytes() for place in list_tables(root))
