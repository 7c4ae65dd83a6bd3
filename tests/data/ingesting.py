"""Run ingest on a folder and read what it wrote."""

from __future__ import annotations

import dataclasses
import os
from functools import reduce
from pathlib import Path
from typing import Any

from stages.artifacts import read_json, read_table
from stages.ingest.stage import Artifacts, Params, run
from stages.params.data import Data

Row = dict[str, Any]
OLD_NS = 1_700_000_000 * 10**9  # long before any test


def ingest_params(folder: Path, **changes: Any) -> Params:
    """Give the parameters of a new project, but for no validation and half may be broken."""
    data = Data(str(folder), validation_fraction=0.0, max_bad_fraction=0.5)
    values = {
        field.name: reduce(getattr, field.metadata["key"].split(".")[1:], data)
        for field in dataclasses.fields(Params)
    }
    return Params(**(values | changes))


def artifacts(place: Path) -> Artifacts:
    return Artifacts(
        place / "images.parquet", place / "ledger.parquet", place / "ingest.json", place / "seen"
    )


@dataclasses.dataclass(frozen=True)
class Ingested:
    """The outputs of a run."""

    files: Artifacts

    @property
    def rows(self) -> list[Row]:
        return read_table(self.files.images, "images").to_pylist()

    @property
    def targets(self) -> dict[str, Row]:
        return {row["path"]: row for row in self.rows if row["role"] == "target"}

    @property
    def ledger(self) -> list[Row]:
        return read_table(self.files.ledger, "ledger").to_pylist()

    @property
    def fates(self) -> dict[str, tuple[str, str]]:
        rows = self.ledger
        assert len({row["path"] for row in rows}) == len(rows)
        assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
        return {row["path"]: (row["fate"], row["reason"]) for row in rows}

    @property
    def summary(self) -> dict[str, Any]:
        return read_json(self.files.summary)

    @property
    def written(self) -> list[bytes]:
        return [
            path.read_bytes() for path in (self.files.images, self.files.ledger, self.files.summary)
        ]


def ingest(folder: Path, place: Path, **changes: Any) -> Ingested:
    """Run the stage; `place` takes its outputs, and what it knows of unchanged files."""
    files = artifacts(place)
    run(ingest_params(folder, **changes), files)
    return Ingested(files)


def age(folder: Path) -> None:
    """Date all files back, so that their time stamps can be trusted."""
    for path in folder.rglob("*"):
        os.utime(path, ns=(OLD_NS, OLD_NS))
