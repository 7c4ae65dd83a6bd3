"""What the stages before encoding wrote about a dataset, in memory."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stages.artifacts import read_json, read_table

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Places:
    """Where it lies."""

    images: Path
    captions: Path
    buckets: Path
    ledgers: Mapping[str, Path]  # by stage, in the order of the stages
    ingest: Path
    caption_report: Path
    bucket_report: Path


@dataclass(frozen=True)
class Inputs:
    """The tables and reports, as their stages wrote them."""

    images: Sequence[Row]  # of IMAGES
    captions: Sequence[Row]  # of CAPTIONS
    buckets: Sequence[Row]  # of BUCKETS
    ledgers: Mapping[str, Sequence[Row]]  # of LEDGER, by stage, in the order of the stages
    ingest: Mapping[str, Any]
    caption_report: Mapping[str, Any]
    bucket_report: Sequence[Mapping[str, str]]  # a row for each bucket and resolution

    @cached_property
    def targets(self) -> list[Row]:
        """The rows of IMAGES that are targets: one a sample."""
        return [row for row in self.images if row["role"] == "target"]

    @cached_property
    def texts(self) -> dict[str, list[str]]:
        """The captions that may be trained with, by sample id, in the order of variants."""
        texts: dict[str, list[str]] = {}
        for row in self.captions:
            texts.setdefault(row["sample_id"], []).append(row["caption"])
        return texts

    @cached_property
    def dataset_of(self) -> dict[str, str]:
        """The dataset that a sample comes from, by sample id."""
        return {row["sample_id"]: row["dataset"] for row in self.targets}

    @cached_property
    def first_crops(self) -> list[Row]:
        """The rows of BUCKETS that are the first variant of a target: one a training item."""
        return [row for row in self.buckets if row["role"] == "target" and not row["variant"]]


def read_inputs(places: Places) -> Inputs:
    """Read all of it.

    Raises:
        FileNotFoundError: A stage before has not run.
        ValueError: A file is not what its stage writes.
    """
    for path in (places.ingest, places.caption_report, places.bucket_report):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there: run `dvc repro`, which makes it")
    with places.bucket_report.open(encoding="utf-8", newline="") as file:
        bucket_report = list(csv.DictReader(file))
    ledgers = {
        stage: read_table(path, "ledger").to_pylist() for stage, path in places.ledgers.items()
    }
    return Inputs(
        images=read_table(places.images, "images").to_pylist(),
        captions=read_table(places.captions, "captions").to_pylist(),
        buckets=read_table(places.buckets, "buckets").to_pylist(),
        ledgers=ledgers,
        ingest=read_json(places.ingest),
        caption_report=read_json(places.caption_report),
        bucket_report=bucket_report,
    )
