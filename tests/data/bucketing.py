"""Run the bucket stage on rows made by hand, and lay pictures out as its rows say."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.artifacts import read_table, write_table
from stages.bucket.choice import Ladders
from stages.bucket.stage import Artifacts, Params, run
from stages.tables import CAPTIONS, IMAGES

Row = dict[str, Any]
DIGITS = Params(
    resolution=64,
    resolutions=(),
    steps=32,
    min_side=32,
    max_side=128,
    buckets=(),
    no_upscale=True,
    small_buckets="keep",
    min_bucket_images=1,
    crop="center",
    crop_variants=1,
    flip=False,
    seed=0,
    is_cached=True,
)
PHOTOS = replace(DIGITS, resolution=1024, steps=64, min_side=512, max_side=2048)


def ladders(params: Params) -> Ladders:
    sides = (params.steps, params.min_side, params.max_side)
    return Ladders(params.resolution, tuple(params.resolutions), *sides, params.no_upscale)


def image_row(width: int, height: int, name: str = "a", **changed: Any) -> Row:
    """Return a row of IMAGES: the target of sample `name`, unless `changed` says otherwise."""
    role = changed.get("role", "target")
    path = f"{name}.png" if role == "target" else f"{role}{changed.get('index', 0)}/{name}.png"
    row: Row = {"sample_id": name, "role": role, "index": 0, "content": f"c-{path}", "path": path}
    row |= {"width": width, "height": height, "captions": [f"of {name}"], "split": "train"}
    row |= {"dataset": "", "repeats": 1, "weight": 1.0, "focal_x": None, "focal_y": None}
    return row | {"prior": False, "perceptual_hash": "0" * 16, "notes": ""} | changed


@dataclass(frozen=True)
class Bucketed:
    """What the stage wrote."""

    artifacts: Artifacts

    @property
    def rows(self) -> list[Row]:
        return read_table(self.artifacts.buckets, "buckets").to_pylist()

    @property
    def fates(self) -> dict[str, tuple[str, str]]:
        """The fate of each sample and the reason, by path."""
        rows = read_table(self.artifacts.ledger, "ledger").to_pylist()
        return {row["path"]: (row["fate"], row["reason"]) for row in rows}

    @property
    def report(self) -> list[dict[str, str]]:
        with self.artifacts.report.open() as file:
            return list(csv.DictReader(file))

    @property
    def files(self) -> list[bytes]:
        paths = (self.artifacts.buckets, self.artifacts.report, self.artifacts.ledger)
        return [path.read_bytes() for path in paths]

    def places(self, *columns: str) -> list[tuple[Any, ...]]:
        return [tuple(row[column] for column in columns) for row in self.rows]


def write_inputs(folder: Path, images: Sequence[Row], captioned: Sequence[str]) -> Artifacts:
    names = ("images.parquet", "captions.parquet", "buckets.parquet", "buckets.csv", "l.parquet")
    artifacts = Artifacts(*(folder / name for name in names))
    write_table(artifacts.images, pa.Table.from_pylist(images, schema=IMAGES), "images")
    captions = [
        {"sample_id": name, "variant": variant, "caption": f"{variant} of {name}"}
        for name in captioned
        for variant in range(2)
    ]
    table = pa.Table.from_pylist(captions, schema=CAPTIONS)
    write_table(artifacts.captions, table, "captions")
    return artifacts


def bucket(
    folder: Path, images: Sequence[Row], params: Params = DIGITS, without_caption: str = ""
) -> Bucketed:
    """Run the stage on rows of IMAGES, all samples of which but one have captions."""
    names = dict.fromkeys(row["sample_id"] for row in images)
    artifacts = write_inputs(folder, images, [each for each in names if each != without_caption])
    run(params, artifacts)
    return Bucketed(artifacts)
