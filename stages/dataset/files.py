"""The bytes of a picture, wherever it lies: in a file, in a tar shard or in a parquet table."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from stages.dataset.cells import read_cell
from stages.dataset.tars import read_member

HERE = "./"  # begins the path of a picture that a stage has made, and no path in a dataset
CONTAINER = re.compile(r"\.(tar|parquet)(?=/)", re.IGNORECASE)
Stamp = tuple[int, int, int]  # size in bytes, mtime in ns, inode


def read_bytes(root: Path, path: str) -> bytes:
    """Read a picture of the dataset `root`; safe to call from several threads.

    Args:
        root: The dataset's folder.
        path: From there, with "/". A member of a shard is "shards/0.tar/a.jpg"; the picture in row
            12 of a table, counted from 0, is "table.parquet/12", that of its column `mask`
            "table.parquet/12/mask", the second of a list "table.parquet/12/reference/1". What
            begins with HERE lies in the working folder; `paths.resolve` never gives such a path.

    Raises:
        OSError: The file or what is asked of it is not there, damaged, or may not be read.
    """
    place, found, inside = _locate(root, path)
    if not inside:
        with open(place, "rb") as file:
            return file.read()
    read = read_member if place.lower().endswith(".tar") else read_cell
    return read(place, found, inside)


def stamp(root: Path, path: str) -> Stamp:
    """Give (size in bytes, mtime in ns, inode) of the file that a picture lies in.

    Raises:
        OSError: The file is not there.
    """
    _, found, inside = _locate(root, path)
    if inside:
        return found
    return _stamp(os.stat(_join(root, path)))


def _locate(root: Path, path: str) -> tuple[str, Stamp, str]:
    """Give the file, and for a shard or a table its stamp and what of it is asked for."""
    for match in () if path.startswith(HERE) else CONTAINER.finditer(path):
        place = os.path.join(root, path[: match.end()])
        status = os.stat(place)
        if stat.S_ISREG(status.st_mode):  # a folder may be called so, too
            return place, _stamp(status), path[match.end() + 1 :]
    return _join(root, path), (0, 0, 0), ""


def _join(root: Path, path: str) -> str:
    return path if path.startswith(HERE) else os.path.join(root, path)


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ino
