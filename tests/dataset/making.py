"""Small datasets in every form; the contents of the pictures do not matter here."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.dataset.form import Entry, Form, Listing
from stages.dataset.listing import list_dataset

Content = str | bytes


def write(root: Path, files: Mapping[str, Content] | Iterable[str]) -> Path:
    """Write files below `root`; where only names are given, each holds its own name."""
    contents = files if isinstance(files, Mapping) else {name: name for name in files}
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def json_lines(rows: Iterable[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def csv_text(rows: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()


def tar(path: Path, members: Iterable[tuple[str, Content]] | Mapping[str, Content]) -> Path:
    """Pack members in this order; a name may come twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = members.items() if isinstance(members, Mapping) else members
    with tarfile.open(path, "w") as archive:
        for name, content in listed:
            data = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as `datasets` writes one


def parquet(path: Path, columns: Mapping[str, Any], group: int = 2) -> Path:
    """Write a table with row groups of `group` rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path, row_group_size=group)
    return path


def picture(data: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": data, "path": path}


def listed(root: Path, form: Form = Form()) -> dict[str, Entry]:
    """List a dataset; entries by path."""
    return {entry.path: entry for entry in list_dataset(root, form).entries}


def captions(root: Path, form: Form = Form()) -> dict[str, tuple[str, ...]]:
    return {path: entry.captions for path, entry in listed(root, form).items()}


def accounted(listing: Listing) -> set[str]:
    """Give the paths that a listing names."""
    roles = (path for e in listing.entries for paths in e.roles.values() for path in paths)
    return {entry.path for entry in listing.entries} | set(listing.aside) | set(roles)


def refused(root: Path, form: Form = Form()) -> str:
    """List a dataset that must be refused, in one line."""
    with pytest.raises(ValueError, match=r".") as caught:
        list_dataset(root, form)
    assert "\n" not in str(caught.value)
    return str(caught.value)
