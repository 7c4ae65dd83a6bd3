"""The paths that metadata names: inside the dataset, unless more is allowed."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import PureWindowsPath

ODD = re.compile(r"[\\:\0]|^/|/$|//|(^|/)\.\.?(/|$)|^$")  # what a plain path has nowhere
PATH = "the path of a picture"
INSIDE = (
    "a path inside the dataset, relative to its table, with forward slashes "
    "(data.allow_outside allows others)"
)


def resolve(named: str, folder: str, base: str, root: str, allow_outside: bool) -> str:
    """Give the path from the root of the dataset of what a table calls `named`.

    Args:
        named: Relative to the table's folder.
        folder: That folder, from the root: "" or with "/" at the end.
        base: The folder that may not be left, from the root: "" or with "/" at the end.
        root: The root of the dataset.
        allow_outside: Whether it may be left, or `named` be absolute.

    Raises:
        ValueError: Neither a path inside nor allowed; the message says what it must be.
    """
    if not is_text(named) or "\0" in named:
        raise ValueError(PATH)
    if not ODD.search(named):
        return folder + named
    if "\\" in named or PureWindowsPath(named).drive:
        raise ValueError(INSIDE)
    path = posixpath.normpath(folder + named)
    if posixpath.isabs(named):
        path = posixpath.normpath(named)
        if allow_outside:
            path = _from_root(path, os.path.abspath(root))
    leaves = posixpath.isabs(path) or path.startswith("..") or not path.startswith(base)
    if leaves and not allow_outside:
        raise ValueError(INSIDE)
    if path == ".":
        raise ValueError(PATH)
    return path


def is_text(value: str) -> bool:
    """Say whether a string is Unicode, without halves of surrogate pairs."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _from_root(path: str, root: str) -> str:
    return path.removeprefix(f"{root}/") if path.startswith(f"{root}/") else path
