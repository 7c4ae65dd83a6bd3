"""The tables that the stage writes: geometry of each picture, fate of each sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import pyarrow as pa

from stages.bucket.choice import Choice
from stages.bucket.geometry import Crop, Geometry, crops_of
from stages.bucket.merge import Placed
from stages.bucket.roles import geometries_of
from stages.bucket.samples import Picture, Sample
from stages.tables import BUCKETS, FATE_OF_SPLIT, LEDGER


class Row(NamedTuple):
    """A row of BUCKETS before its columns are taken apart."""

    picture: Picture
    target: Picture
    resolution: int
    variant: int
    geometry: Geometry


def buckets_table(placed: Sequence[Placed], choice: Choice, crop: Crop) -> pa.Table:
    """Return BUCKETS; `placed` comes sorted by sample id."""
    rows = [row for each in placed for row in rows_of(each, choice, crop)]
    pictures = [row.picture for row in rows]
    targets = [row.target for row in rows]
    geometries = [row.geometry for row in rows]
    columns: dict[str, Sequence[Any]] = {
        "resolution": [row.resolution for row in rows],
        "variant": [row.variant for row in rows],
        "bucket": [f"{each.width}x{each.height}" for each in geometries],
        "original_width": [each.width for each in pictures],
        "original_height": [each.height for each in pictures],
    }
    for name in ("sample_id", "role", "index", "content", "path"):
        columns[name] = [getattr(each, name) for each in pictures]
    for name in ("split", "repeats", "weight", "prior"):
        columns[name] = [getattr(each, name) for each in targets]
    columns |= dict(zip(Geometry._fields, zip(*geometries, strict=True), strict=True))
    return pa.Table.from_pydict(columns, schema=BUCKETS)


def rows_of(placed: Placed, choice: Choice, crop: Crop) -> Iterator[Row]:
    """Return the rows of a sample, in the order of BUCKETS."""
    target = placed.sample.target
    of_target = {
        resolution: crops_of(target, resolution, bucket, crop)
        for resolution, bucket in placed.buckets.items()
    }
    for picture in (target, *placed.sample.others):
        for resolution, variants in of_target.items():
            geometries = geometries_of(picture, target, variants, resolution, choice)
            for variant, geometry in enumerate(geometries):
                yield Row(picture, target, resolution, variant, geometry)


def ledger_table(samples: Iterable[Sample], excluded: Mapping[str, str]) -> pa.Table:
    """Return LEDGER: one row a sample, sorted by path.

    Args:
        samples: All that came in.
        excluded: Why a sample is left out, by sample id.
    """
    targets = sorted((each.target for each in samples), key=attrgetter("path"))
    reasons = [excluded.get(each.sample_id, "") for each in targets]
    columns = {
        "path": [each.path for each in targets],
        "sample_id": [each.sample_id for each in targets],
        "stage": ["bucket"] * len(targets),
        "fate": [
            "excluded" if reason else FATE_OF_SPLIT[each.split]
            for each, reason in zip(targets, reasons, strict=True)
        ],
        "reason": reasons,
    }
    return pa.Table.from_pydict(columns, schema=LEDGER)
