"""What was predicted of a training and what was measured, beside the row store and its checkpoints.

Both hold durations and the machine's memory, which no output that DVC tracks may.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.artifacts import read_json, write_json
from stages.rows.location import local_root

PREDICTED, MEASURED = "predicted", "measured"


def place(root: str, parameters: str) -> Path:
    """Name the file of the training with these parameters, by their digest."""
    return local_root(root) / "preflight" / f"{parameters[:16]}.json"


def write(root: str, parameters: str, kind: str, values: Mapping[str, Any]) -> Path:
    """Write what was predicted, or beside it what was measured."""
    path = place(root, parameters)
    kept = {} if kind == PREDICTED else read(root, parameters)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**kept, kind: dict(values)})
    return path


def read(root: str, parameters: str) -> dict[str, Any]:
    """Return what is known of a training: nothing where it had no pre-flight."""
    path = place(root, parameters)
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    return found
