"""Recognise the form of a dataset: metadata tables, tar shards, or pictures with caption files."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stages.dataset.captions import ReadText
from stages.dataset.form import Form, Listing
from stages.dataset.metadata import NAMES, READERS, list_tables
from stages.dataset.pairs import list_pairs
from stages.dataset.shards import list_shards
from stages.dataset.tree import Folder
from stages.pixels import SUFFIXES

SHARD = ".tar"


@dataclass(frozen=True)
class Kind:
    """The form of a dataset, and the files that describe it."""

    name: str  # "metadata" (tables that list a whole folder) | "tables" | "shards" | "pairs"
    paths: Sequence[str] = ()  # the tables or the shards


def list_kind(folder: Folder, kind: Kind, form: Form, read_text: ReadText) -> Listing:
    """List a dataset of this kind.

    Raises:
        ValueError: It contradicts itself or `form`.
    """
    if kind.name in ("metadata", "tables"):
        listing = list_tables(folder, kind.paths, form)
        if kind.name == "metadata":
            _refuse_outside(folder, kind.paths, listing.aside)
        return listing
    if kind.name == "shards":
        return list_shards(folder, kind.paths, form)
    return list_pairs(folder, form, read_text)


def is_dataset(path: str) -> bool:
    """Say whether a file is called like a dataset of its own."""
    return os.path.splitext(path)[1].lower() in (SHARD, *READERS)


def kind_of_file(path: str) -> Kind:
    """Recognise a dataset that is one file."""
    return Kind("shards" if path.lower().endswith(SHARD) else "tables", [path])


def kind_of(folder: Folder) -> Kind:
    """Recognise a folder.

    Metadata tables (of NAMES) go before everything else, parquet tables before loose pictures.

    Raises:
        ValueError: It holds two forms at once, or two tables that may both mean a picture.
    """
    known: dict[str, list[str]] = {suffix: [] for suffix in (SHARD, *READERS)}
    for path, suffix in folder.visible.items():
        if suffix in known:
            known[suffix].append(path)
    tables = [path for paths in known.values() for path in paths if is_metadata(path)]
    if tables:
        _refuse_two_tables(folder, tables)
        return Kind("metadata", sorted(tables))
    parquets, shards = known[".parquet"], known[SHARD]
    if shards and (others := parquets or [p for p in folder.visible if is_picture(p)]):
        what = "a parquet table" if parquets else "a picture outside of it"
        raise ValueError(
            f"{folder} holds a tar archive ({shards[0]}) and {what} ({others[0]}): remove what is "
            f"not trained on, or list each dataset in data.datasets"
        )
    if parquets:
        return Kind("tables", parquets)
    return Kind("shards", shards) if shards else Kind("pairs")


def is_picture(path: str) -> bool:
    """Say whether a file is called like a picture."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


def is_metadata(path: str) -> bool:
    """Say whether a file is called like metadata of its folder."""
    return os.path.basename(path).lower() in NAMES


def _refuse_two_tables(folder: Folder, tables: Iterable[str]) -> None:
    beside = defaultdict(list)
    for path in tables:
        beside[os.path.dirname(path)].append(os.path.basename(path))
    for place, names in beside.items():
        if len(names) > 1:
            raise ValueError(
                f"{folder.root / place} holds {' and '.join(sorted(names))}, which may differ: "
                f"keep one"
            )


def _refuse_outside(folder: Folder, tables: Sequence[str], unlisted: Iterable[str]) -> None:
    """Refuse pictures that no table can be meant for, since all lie in other folders."""
    covered = tuple(path[: path.rfind("/") + 1] for path in tables)
    for path in unlisted:
        if path in folder.visible and is_picture(path) and not path.startswith(covered):
            raise ValueError(
                f"{folder}: {tables[0]} lists pictures of its own folder, but there is {path}: "
                f"list each dataset in data.datasets, or write one table for all"
            )
