"""What earlier runs found in files that have not changed since: such a file costs a stat."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import PIL
import pyarrow as pa
import pyarrow.parquet as pq

from stages.artifacts import sha256_text, staging
from stages.dataset.files import Stamp, stamp
from stages.pixels import CONVENTION

# content, width, height, perceptual_hash, notes: a `pictures.Look` that has no problem
Found: TypeAlias = tuple[str, int, int, str, str]

RACY_NS = 2_000_000_000  # a file may change again within one tick of a clock; FAT's is 2 s
STAMP = (("size", pa.int64()), ("mtime_ns", pa.int64()), ("inode", pa.uint64()))
FOUND = (
    ("content", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("perceptual_hash", pa.string()),
    ("notes", pa.string()),
)
SCHEMA = pa.schema([("path", pa.string()), *STAMP, *FOUND, ("text", pa.string())])


@dataclass
class Seen:
    """What is known of the files of one dataset.

    A file is known by the size, the time of the last change and the inode that it had when it was
    read. One changed so lately that it might change again within the same time stamp is not kept.
    Files with a problem are not kept either: what they lack may be installed by now.
    """

    root: Path
    place: Path  # of the file that remembers
    made_by: dict[str, str]  # what the findings depend on besides the files
    started_ns: int
    pictures: dict[str, tuple[Stamp, Found]] = field(default_factory=dict)  # from last time
    texts: dict[str, tuple[Stamp, str]] = field(default_factory=dict)
    kept_pictures: dict[str, tuple[Stamp, Found]] = field(default_factory=dict)  # for next time
    kept_texts: dict[str, tuple[Stamp, str]] = field(default_factory=dict)

    def picture(self, path: str) -> Found | None:
        """Give what is in the picture, or None where only reading it can tell."""
        known = self.pictures.get(path)
        if known is None:
            return None
        try:
            if stamp(self.root, path) != known[0]:
                return None
        except OSError:
            return None  # whoever reads it says why
        self.kept_pictures[path] = known
        return known[1]

    def learn_picture(self, path: str, before: Stamp, found: Found) -> None:
        """Keep what was found in a picture whose stamp was `before` when it was read."""
        if self._is_settled(before):
            self.kept_pictures[path] = (before, found)

    def read_text(self, path: Path) -> str:
        """Read a caption file, UTF-8 with or without a byte order mark.

        Raises:
            UnicodeDecodeError: It is in another encoding.
            OSError: It may not be read.
        """
        name = os.fspath(path)
        status = os.stat(name)
        found = (status.st_size, status.st_mtime_ns, status.st_ino)
        name = name[len(os.fspath(self.root)) + 1 :]
        known = self.texts.get(name)
        if known is None or known[0] != found:
            known = (found, path.read_bytes().decode("utf-8-sig"))
        if self._is_settled(found):
            self.kept_texts[name] = known
        return known[1]

    def save(self) -> None:
        """Remember the files of this run, and no others."""
        if (self.kept_pictures, self.kept_texts) == (self.pictures, self.texts):
            return
        empty: Found = ("", 0, 0, "", "")
        rows: list[tuple[object, ...]] = [
            (p, *s, *found, None) for p, (s, found) in self.kept_pictures.items()
        ]
        rows += [(p, *s, *empty, text) for p, (s, text) in self.kept_texts.items()]
        columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
        table = pa.table(
            [pa.array(column, kind.type) for column, kind in zip(columns, SCHEMA, strict=True)],
            schema=SCHEMA.with_metadata(self.made_by),
        )
        with staging(self.place) as staged:
            pq.write_table(table, staged, compression="zstd")

    def _is_settled(self, found: Stamp) -> bool:
        return found[1] < self.started_ns - RACY_NS


def recall(root: Path, folder: Path, background: str, max_pixels: int) -> Seen:
    """Read what earlier runs found in the dataset `root`; what is damaged is read from the files.

    Args:
        root: The dataset's folder.
        folder: Where such knowledge lies, a file a dataset.
        background: See data.background, on which the pixels depend.
        max_pixels: See data.max_pixels.
    """
    real = os.path.realpath(root)
    settings = [CONVENTION, PIL.__version__, background, max_pixels]
    made_by = {"root": real, "settings": json.dumps(settings)}
    place = folder / f"{sha256_text(real)[:20]}.parquet"
    seen = Seen(root, place, made_by, time.time_ns())
    if not place.is_file():
        return seen
    try:
        table = pq.read_table(place, memory_map=False, use_threads=False)
        _fill(seen, table)
    except (OSError, ValueError, KeyError, UnicodeDecodeError) as error:  # Arrow's are among them
        print(  # noqa: T201
            f"ingest: {place} is damaged ({' '.join(str(error).split())[:200]}): all files are "
            f"read again",
            file=sys.stderr,
        )
        return Seen(root, place, made_by, seen.started_ns)
    return seen


def _fill(seen: Seen, table: pa.Table) -> None:
    if not table.schema.equals(SCHEMA):
        raise ValueError(f"it has the columns {table.schema.names}")
    made_by = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    if made_by != seen.made_by:
        return  # other settings, or another Pillow
    columns: dict[str, list[Any]] = {name: table[name].to_pylist() for name in SCHEMA.names}
    stamps = zip(*(columns[name] for name, _ in STAMP), strict=True)
    found = zip(*(columns[name] for name, _ in FOUND), strict=True)
    rows = zip(columns["path"], stamps, found, columns["text"], strict=True)
    for path, when, content, text in rows:
        if text is None:
            seen.pictures[path] = (when, content)
        else:
            seen.texts[path] = (when, text)
