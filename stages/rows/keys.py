"""Names of rows and tables: a row's key is a hash of everything that determines its bits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence


def row_key(**parts: str | int | float | Sequence[str | int | float]) -> str:
    """Hash the named `parts` that determine a row (sha256 hex of their canonical JSON)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def table_name(kind: str, columns: Mapping[str, tuple[int, ...]]) -> str:
    """Name the table of rows with these column shapes, for example `latents-32x4x12`."""
    return "-".join([kind, *("x".join(map(str, shape)) for shape in columns.values())])
