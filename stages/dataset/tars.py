"""Tar archives: where their members lie, and the bytes of each, without unpacking."""

from __future__ import annotations

import errno
import posixpath
import tarfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PureWindowsPath

from stages.dataset.paths import is_text

ARCHIVES = 4096  # indexes that are kept; one of 10,000 members takes about 3 MB


@dataclass
class Archive:
    """The members of a tar file by name, without a leading "./"."""

    members: dict[str, tuple[int, int]] = field(default_factory=dict)  # offset and size, bytes
    aside: dict[str, str] = field(default_factory=dict)  # what is no usable member -> why
    problem: str = ""  # why there may be more members than these


def read_member(place: str, stamp: tuple[int, int, int], name: str) -> bytes:
    """Read a member of the tar file `place`, whose index is kept while its stamp stays the same.

    Raises:
        OSError: The archive or the member cannot be read.
    """
    found = index(place, stamp).members.get(name)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "the archive has no such member", name)
    offset, size = found
    with open(place, "rb", buffering=0) as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) < size:
        raise OSError(errno.EIO, "the archive ends within it", name)
    return data


@lru_cache(maxsize=ARCHIVES)
def index(place: str, stamp: tuple[int, int, int]) -> Archive:
    """List the members of a tar file.

    Args:
        place: The file.
        stamp: Its (size in bytes, mtime in ns, inode): after a change it is indexed anew.

    Raises:
        OSError: It may not be read.
        ValueError: Two members have the same name.
    """
    archive, members = Archive(), []
    try:
        with tarfile.open(place, "r:") as tar:
            while (member := tar.next()) is not None and member.size >= 0:
                members.append(member)
            archive.problem = _ending(tar, member, stamp[0])
    except (tarfile.TarError, ValueError, OverflowError) as error:
        archive.problem = f"it is no tar archive, or damaged ({error})"
    for member in members:
        _add(archive, member, stamp[0], place)
    return archive


def _add(archive: Archive, member: tarfile.TarInfo, size: int, place: str) -> None:
    name = posixpath.normpath(member.name) if "./" in member.name else member.name
    if not is_text(name):
        shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        archive.aside[shown] = "its name is not UTF-8"
    elif member.isdir():
        return
    elif name in archive.members or name in archive.aside:
        raise ValueError(f"{place} holds {name!r} twice: pack it anew with one of them")
    elif _leaves(name):
        archive.aside[name] = "its name leads out of the archive"
    elif member.issym() or member.islnk():
        archive.aside[name] = "a link within an archive"
    elif not member.isreg() or member.issparse():
        archive.aside[name] = "no plain file"
    elif member.offset_data + member.size > size:
        archive.aside[name] = "the archive ends within it"
    else:
        archive.members[name] = (member.offset_data, member.size)


def _leaves(name: str) -> bool:
    return (
        name.startswith(("/", "../"))
        or name in (".", "..")
        or "\\" in name
        or bool(PureWindowsPath(name).drive)
    )


def _ending(tar: tarfile.TarFile, last: tarfile.TarInfo | None, size: int) -> str:
    """Say whether the archive goes on behind its last readable member."""
    if last is not None:  # its size is below zero
        return "the archive is damaged behind its last readable member"
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(tarfile.BLOCKSIZE)
    if not block or tar.offset > size:
        return "the archive is cut off"
    return "the archive is damaged behind its last readable member" if any(block) else ""
