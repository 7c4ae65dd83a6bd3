"""Names of rows and tables: a row's key is the hash of the text of all that determines its bits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from stages.rows.layout import Shapes, columns_of

MAX_LISTED = 32  # values of a part that are listed; more are named by their digest

Part: TypeAlias = str | int | float | Sequence[str | int | float]


def parts_text(**parts: Part) -> str:
    """Return the canonical JSON of the named `parts`; a long list is named by its digest."""
    return _canonical({name: _short(part) for name, part in parts.items()})


def row_key(**parts: Part) -> str:
    """Hash the named `parts` that determine a row (sha256 hex of their `parts_text`)."""
    return key_of(parts_text(**parts))


def key_of(text: str) -> str:
    """Return the key of the row whose `parts_text` is `text`."""
    return hashlib.sha256(text.encode()).hexdigest()


def table_name(kind: str, columns: Shapes) -> str:
    """Name the table of rows with these columns, for example `latents-32x4x12-float32`."""
    parts = (
        f"{'x'.join(map(str, column.shape))}-{column.dtype}"
        for column in columns_of(columns).values()
    )
    return "-".join([kind, *parts])


def _short(part: Part) -> Part | Mapping[str, str | int]:
    if isinstance(part, (str, int, float)) or len(part) <= MAX_LISTED:
        return part
    return {"sha256": hashlib.sha256(_canonical(part).encode()).hexdigest(), "length": len(part)}


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
