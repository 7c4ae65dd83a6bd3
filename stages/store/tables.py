"""The tables of a store, and the rows of them that a workspace names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lance
import pyarrow as pa
from pyarrow import fs

from stages.artifacts import read_table
from stages.rows.faults import reading
from stages.rows.layout import is_current
from stages.rows.table import RowTable
from stages.rows.uses import filesystem, keys_by_table

LATENTS = Path("data/latents.parquet")
PROMPTS = Path("data/prompts.parquet")
PROBES = "probes"  # kind of the tables of `rows.generation`: a few kilobytes, never cleaned


@dataclass(frozen=True)
class Place:
    """A table's folder in the store.

    Attributes:
        root: the store's place.
        name: of the table.
    """

    root: str
    name: str

    @property
    def kind(self) -> str:
        """What the rows are: latents, masks, pixels, text or probes."""
        return self.name.partition("-")[0]

    @property
    def uri(self) -> str:
        """The table's address."""
        return f"{self.root}/rows/{self.name}.lance"

    @property
    def is_current(self) -> bool:
        """Whether this version of the code wrote it."""
        with reading(self.uri):
            return is_current(lance.dataset(self.uri).schema)

    def open(self) -> RowTable:
        """Open the table."""
        return RowTable.open(self.root, self.name)

    def num_bytes(self) -> int:
        """Return the bytes of all its files, those of older versions included."""
        system, folder = self._folder()
        found = system.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
        return sum(info.size for info in found if info.is_file)

    def remove(self) -> None:
        """Remove the table with all its rows."""
        system, folder = self._folder()
        system.delete_dir(folder)

    def _folder(self) -> tuple[fs.FileSystem, str]:
        system, folder = filesystem(self.root)
        return system, f"{folder}/rows/{self.name}.lance"


def list_tables(root: str) -> list[Place]:
    """Return the tables of the store at `root`, by name."""
    system, folder = filesystem(root)
    found = system.get_file_info(fs.FileSelector(f"{folder}/rows", allow_not_found=True))
    names = (info.base_name for info in found if info.base_name.endswith(".lance"))
    return [Place(root, name.removesuffix(".lance")) for name in sorted(names)]


def read_manifests(workspace: Path = Path()) -> dict[Path, pa.Table]:
    """Return the manifests that are there in a workspace.

    Raises:
        ValueError: one of them is damaged, or of another version.
    """
    schemas = {LATENTS: "latents", PROMPTS: "prompts"}
    return {
        path: read_table(workspace / path, schema)
        for path, schema in schemas.items()
        if (workspace / path).is_file()
    }


def named_keys(workspace: Path = Path()) -> dict[str, set[str]]:
    """Return the keys of each table that the manifests of a workspace name."""
    named: dict[str, set[str]] = {}
    for manifest in read_manifests(workspace).values():
        for table, keys in keys_by_table(manifest).items():
            named.setdefault(table, set()).update(keys)
    return named
