"""The bytes of a picture, wherever it lies: in a file, in a shard or in a table."""

from __future__ import annotations

import os
from pathlib import Path


def read_bytes(root: Path, path: str) -> bytes:
    """Read a picture of the dataset `root` by its `path` column.

    Raises:
        OSError: The file is not there or may not be read.
    """
    with open(os.path.join(root, path), "rb") as file:
        return file.read()


def stamp(root: Path, path: str) -> tuple[int, int, int]:
    """Give (size in bytes, mtime in ns, inode) of the file that a picture lies in.

    Raises:
        OSError: The file is not there.
    """
    status = os.stat(os.path.join(root, path))
    return status.st_size, status.st_mtime_ns, status.st_ino
