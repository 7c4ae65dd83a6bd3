"""Record in the store which rows a manifest names and when, so that a clean-up knows what to keep.

One parquet file a manifest, named by the rows it names: equal manifests of several workspaces share
one. It is replaced whole, so that a reader sees the old or the new.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from stages.rows.faults import writing

FOLDER = "uses"
KEYS = pa.schema([("table", pa.dictionary(pa.int32(), pa.string())), ("key", pa.string())])


@dataclass(frozen=True)
class Use:
    """One manifest's use of the store.

    Attributes:
        tag: of the manifest, which also tags the table versions that it was read from.
        manifest: its file, on the machine that used it last.
        used: when it was last completed or opened.
        encoded: rows that the stage had to encode when it last completed the manifest; None when
            it has not completed yet.
        reused: rows that were there already; None likewise.
        keys: rows of each table.
    """

    tag: str
    manifest: str
    used: datetime
    encoded: int | None
    reused: int | None
    keys: Mapping[str, Sequence[str]]


def keys_by_table(manifest: pa.Table) -> dict[str, list[str]]:
    """Return the distinct keys of each row table that a manifest names.

    Rows that training makes are in no table.
    """
    keys: dict[str, dict[str, None]] = {}
    pairs = zip(manifest["table"].to_pylist(), manifest["key"].to_pylist(), strict=True)
    for table, key in pairs:
        if table:
            keys.setdefault(table, {})[key] = None
    return {table: list(distinct) for table, distinct in sorted(keys.items())}


def tag_of(keys: Mapping[str, Sequence[str]]) -> str:
    """Name a manifest by the rows it names, so that equal runs share a tag."""
    text = "\n".join(key for name in keys for key in sorted(keys[name]))
    return f"manifest-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def record(
    root: str,
    path: Path,
    manifest: pa.Table,
    encoded: int | None = None,
    reused: int | None = None,
) -> str:
    """Note that the rows of `manifest` are in use now; return its tag.

    Args:
        root: the store's place.
        path: of the manifest.
        manifest: its rows, with columns `table` and `key`.
        encoded: rows that completing it took; None keeps what was noted before.
        reused: rows that were there already; None likewise.
    """
    keys = keys_by_table(manifest)
    tag = tag_of(keys)
    system, folder = _folder(root)
    file = f"{folder}/{tag}.parquet"
    if encoded is None and system.get_file_info(file).is_file:
        known = _metadata(system, file)
        encoded, reused = _count(known["encoded"]), _count(known["reused"])
    noted = {"manifest": str(path.absolute()), "used": datetime.now(timezone.utc).isoformat()}
    noted |= {"encoded": str(encoded), "reused": str(reused)}
    pairs = [(table, key) for table, some in keys.items() for key in some]
    columns = [
        pa.array([table for table, _ in pairs], pa.string()).dictionary_encode(),
        pa.array([key for _, key in pairs], pa.string()),
    ]
    rows = pa.Table.from_arrays(columns, schema=KEYS).replace_schema_metadata(noted)
    with writing(file):
        _write(system, folder, file, rows)
    return tag


def read_uses(root: str) -> list[Use]:
    """Return the recorded uses, the latest first."""
    system, folder = _folder(root)
    found = system.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    files = [info.path for info in found if info.base_name.startswith("manifest-")]
    return sorted((_read(system, file) for file in files), key=lambda use: use.used, reverse=True)


def forget(root: str, tags: Sequence[str]) -> None:
    """Remove the records of these manifests."""
    system, folder = _folder(root)
    for tag in tags:
        file = f"{folder}/{tag}.parquet"
        if system.get_file_info(file).is_file:  # another clean-up may have been first
            system.delete_file(file)


def filesystem(root: str) -> tuple[fs.FileSystem, str]:
    """Return where the store at `root` lies, and its folder there."""
    if "://" in root:
        system, folder = fs.FileSystem.from_uri(root)
        return system, folder
    return fs.LocalFileSystem(), root


def _folder(root: str) -> tuple[fs.FileSystem, str]:
    system, folder = filesystem(root)
    return system, f"{folder}/{FOLDER}"


def _write(system: fs.FileSystem, folder: str, file: str, rows: pa.Table) -> None:
    """Write in one step: an object store does so itself, a local file is renamed."""
    if not isinstance(system, fs.LocalFileSystem):
        pq.write_table(rows, file, filesystem=system, compression="zstd")
        return
    system.create_dir(folder)
    staged = f"{folder}/.{os.path.basename(file)}.{os.getpid()}"
    try:
        pq.write_table(rows, staged, filesystem=system, compression="zstd")
        os.replace(staged, file)
    finally:
        Path(staged).unlink(missing_ok=True)


def _read(system: fs.FileSystem, file: str) -> Use:
    with system.open_input_file(file) as source:
        rows = pq.ParquetFile(source).read()
    noted = {name.decode(): text.decode() for name, text in rows.schema.metadata.items()}
    return Use(
        tag=os.path.basename(file).removesuffix(".parquet"),
        manifest=noted["manifest"],
        used=datetime.fromisoformat(noted["used"]),
        encoded=_count(noted["encoded"]),
        reused=_count(noted["reused"]),
        keys=keys_by_table(rows),
    )


def _metadata(system: fs.FileSystem, file: str) -> dict[str, str]:
    with system.open_input_file(file) as source:
        metadata = pq.read_schema(source).metadata
    return {name.decode(): text.decode() for name, text in metadata.items()}


def _count(text: str) -> int | None:
    return None if text == "None" else int(text)
