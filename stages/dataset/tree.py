"""The files of a dataset folder, walked once; links that lead out of it are not followed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from stages.dataset.paths import is_text

LEADS_OUT = "a link out of the dataset, which data.allow_outside does not allow"


@dataclass(frozen=True)
class Folder:
    """A folder of the dataset, with all files below it."""

    root: Path  # of the whole dataset
    base: str  # "" for the root, else its path from there with "/" at the end
    files: Mapping[str, str]  # path from the root -> why it cannot be read, or ""; sorted
    aside: Mapping[str, str]  # links that are not followed -> why; sorted

    def __str__(self) -> str:
        """Name the folder in messages."""
        return str(self.root / self.base)

    @cached_property
    def visible(self) -> Mapping[str, str]:
        """Give the files that are not hidden, each with its suffix in small letters."""
        return {
            path: os.path.splitext(path)[1].lower()
            for path in self.files
            if not is_hidden(path, self.base)
        }

    def below(self, path: str) -> Folder:
        """Give the part of the folder in its sub-folder `path`, from the root."""
        base = path + "/"
        return Folder(
            self.root,
            base,
            {name: why for name, why in self.files.items() if name.startswith(base)},
            {name: why for name, why in self.aside.items() if name.startswith(base)},
        )


def is_hidden(path: str, base: str = "") -> bool:
    """Say whether a name in `path` below `base` begins with a dot."""
    return path.startswith(".", len(base)) or path.find("/.", len(base)) >= 0


def walk(root: Path, allow_outside: bool) -> Folder:
    """List everything below `root`.

    Raises:
        OSError: A folder may not be read.
    """
    walked = _Walk(os.path.realpath(root), allow_outside, [(str(root), "")])
    while walked.pending:
        walked.folder(*walked.pending.pop())
    return Folder(root, "", dict(sorted(walked.files.items())), dict(sorted(walked.aside.items())))


@dataclass
class _Walk:
    real_root: str
    allow_outside: bool
    pending: list[tuple[str, str]]  # folders to walk: place, and path from the root with "/"
    files: dict[str, str] = field(default_factory=dict)
    aside: dict[str, str] = field(default_factory=dict)
    outside: set[str] = field(default_factory=set)  # real paths of linked folders

    def folder(self, place: str, prefix: str) -> None:
        with os.scandir(place) as listed:
            children = sorted(listed, key=lambda child: child.name)
        for child in children:
            path = prefix + child.name
            if not is_text(path):
                shown = os.fsencode(path).decode("utf-8", "backslashreplace")
                self.files[shown] = "its name is not UTF-8: rename it"
            elif child.is_symlink():
                self.link(child, path)
            elif child.is_file(follow_symlinks=False):
                self.files[path] = ""
            elif child.is_dir(follow_symlinks=False):
                self.pending.append((child.path, path + "/"))
            else:
                self.files[path] = "neither a file nor a folder"

    def link(self, child: os.DirEntry[str], path: str) -> None:
        real = os.path.realpath(child.path)
        inside = _is_within(real, self.real_root)
        if os.path.isfile(child.path):  # of a link to itself the entry would raise
            self.files[path] = "" if inside or self.allow_outside else LEADS_OUT
        elif not os.path.isdir(child.path):
            self.files[path] = "a link to nothing"
        elif inside:
            self.aside[path] = "a link to a folder of the dataset, which is listed there"
        elif not self.allow_outside:
            self.aside[path] = LEADS_OUT
        elif real in self.outside or _is_within(self.real_root, real):
            self.aside[path] = "a link to a folder that is listed already"
        else:
            self.outside.add(real)
            self.pending.append((child.path, path + "/"))


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
