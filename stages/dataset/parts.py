"""Several datasets in one folder, each in a form of its own; none may share a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from stages.dataset.form import DatasetPart, Entry, Form, Listing
from stages.dataset.kinds import Kind, is_dataset, kind_of, kind_of_file
from stages.dataset.paths import resolve
from stages.dataset.tree import Folder


@dataclass(frozen=True)
class Part:
    """One of the datasets, found."""

    key: str  # the parameter that names it
    path: str  # from the root, without "/" at the end; "" for the root itself
    folder: Folder  # all files that it may name
    is_file: bool
    said: DatasetPart

    @cached_property
    def kind(self) -> Kind:
        """Recognise its form.

        Raises:
            ValueError: It contradicts itself.
        """
        return kind_of_file(self.path) if self.is_file else kind_of(self.folder)

    @property
    def base(self) -> str:
        """Give what the paths of all its files begin with, if it is a folder."""
        return f"{self.path}/" if self.path else ""


def find_parts(folder: Folder, form: Form) -> list[Part]:
    """Find the datasets of `form.datasets`, in their order.

    Raises:
        FileNotFoundError: One is not there.
        ValueError: One lies outside, is no dataset, or lies within another.
    """
    parts = [
        _find(folder, said, f"data.datasets[{index}].path")
        for index, said in enumerate(form.datasets)
    ]
    for part in parts:
        for other in parts:
            if other is not part and not other.is_file and f"{part.path}/".startswith(other.base):
                raise ValueError(
                    f"{part.key}: {part.path!r} lies within {other.path or '.'!r} ({other.key}), "
                    f"so that its pictures would be in both: keep one of them"
                )
    return parts


def _find(folder: Folder, said: DatasetPart, key: str) -> Part:
    try:
        path = "" if said.path in (".", "./") else resolve(said.path.rstrip("/"), "", "", "", False)
    except ValueError:
        raise ValueError(
            f"{key}: {said.path!r} given, a path inside {folder}, relative to it, expected"
        ) from None
    for link, why in folder.aside.items():
        if path == link or path.startswith(f"{link}/"):
            raise ValueError(f"{key}: {said.path!r} cannot be read: {link} is {why}")
    if path in folder.files:
        if not is_dataset(path):
            raise ValueError(
                f"{key}: {said.path!r} is a file, but no .tar shard and no .json, .jsonl, .csv or "
                f".parquet table: give one of these, or a folder"
            )
        return Part(key, path, folder, True, said)
    below = folder.below(path) if path else folder
    if not below.files:
        raise FileNotFoundError(f"{key}: there is no {said.path!r} with files in {folder}")
    return Part(key, path, below, False, said)


def join(folder: Folder, listed: Sequence[tuple[Part, Listing]]) -> Listing:
    """Make one listing of those of all parts; files of none are left aside.

    Raises:
        ValueError: Two parts name one picture.
    """
    owners: dict[str, Part] = {}
    entries: list[Entry] = []
    for part, listing in listed:
        for entry in listing.entries:
            _refuse_shared(owners.setdefault(entry.path, part), part, entry.path)
            entries.append(_as_said(entry, part))
    folders = [part for part, _ in listed if not part.is_file]
    aside: dict[str, str] = {}
    used = {part.path for part, _ in listed}
    for part, listing in listed:
        named = set(_named(listing))
        for other in folders if part.is_file else []:
            for path in named:
                if path.startswith(other.base):
                    _refuse_shared(other, part, path)
        used |= named
        inside = f"{part.path}/"  # of a shard or table; what lies beside it is not the part's
        aside |= {
            path: why
            for path, why in listing.aside.items()
            if not part.is_file or path == part.path or path.startswith(inside)
        }
    bases = tuple(part.base for part in folders)
    for path, why in [*folder.files.items(), *folder.aside.items()]:
        if path not in used and not path.startswith(bases):
            aside[path] = why or "in none of data.datasets"
    return Listing(entries, aside)


def _as_said(entry: Entry, part: Part) -> Entry:
    said = part.said
    return replace(
        entry,
        dataset=said.path,
        repeats=said.repeats,
        weight=said.weight,
        split=said.split,
    )


def _named(listing: Listing) -> Iterator[str]:
    for entry in listing.entries:
        yield entry.path
        for paths in entry.roles.values():
            yield from paths


def _refuse_shared(owner: Part, part: Part, path: str) -> None:
    if owner is not part:
        raise ValueError(
            f"{part.key}: {part.path!r} and {owner.path!r} ({owner.key}) both name {path!r}: "
            f"keep it in one of them"
        )
