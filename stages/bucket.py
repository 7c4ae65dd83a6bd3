"""Choose for each picture the size it is trained at: resize to cover a bucket, cut the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from stages import launch
from stages.artifacts import read_table, write_csv, write_table
from stages.params.read import key
from stages.tables import FATE_OF_SPLIT, to_table

Row = Mapping[str, Any]
Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True)
class Params:
    """Which bucket sizes there are."""

    resolution: int = key("data.resolution")  # a bucket has at most resolution**2 pixels
    steps: int = key("data.bucket_resolution_steps")  # sides are multiples of it
    min_side: int = key("data.min_bucket_resolution")
    max_side: int = key("data.max_bucket_resolution")
    no_upscale: bool = key("data.no_upscale")


@dataclass(frozen=True)
class Artifacts:
    """Samples that have a caption in; their geometry, a count and the fate of each out."""

    images: Path = Path("data/images.parquet")
    captions: Path = Path("data/captions.parquet")
    buckets: Path = Path("data/buckets.parquet")
    report: Path = Path("data/reports/buckets.csv")
    ledger: Path = Path("data/ledger/bucket.parquet")


def run(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Write the geometry of all samples that fit a bucket, the count per bucket and the ledger."""
    images = captioned(artifacts)
    buckets = {row["sample_id"]: choose(row["width"], row["height"], params) for row in images}
    rows = [geometry(row, bucket) for row in images if (bucket := buckets[row["sample_id"]])]
    if not rows:
        raise ValueError(
            f"{artifacts.images}: none of {len(images)} pictures fits a bucket, all are "
            f"{too_small(params)}: set data.no_upscale to false or smaller buckets"
        )
    write_table(artifacts.buckets, to_table(rows, "buckets"), "buckets")
    write_csv(artifacts.report, ("bucket", "width", "height", "num_images"), histogram(rows))
    fates = ledger(images, buckets, too_small(params))
    write_table(artifacts.ledger, to_table(fates, "ledger"), "ledger")
    print(  # noqa: T201
        f"{len(rows)} pictures in {len(histogram(rows))} buckets, {len(images) - len(rows)} "
        f"excluded: see {artifacts.ledger}"
    )


def captioned(artifacts: Artifacts) -> list[Row]:
    """Return the rows of IMAGES that have a caption, without it: only sizes matter here."""
    wanted = set(read_table(artifacts.captions, "captions")["sample_id"].to_pylist())
    images = read_table(artifacts.images, "images").drop_columns(["caption"]).to_pylist()
    found = [row for row in images if row["sample_id"] in wanted]
    if len(found) < len(wanted):
        raise ValueError(
            f"{artifacts.captions} names {len(wanted) - len(found)} samples that are not in "
            f"{artifacts.images}: run `dvc repro check_captions`"
        )
    return found


@cache
def choose(width: int, height: int, params: Params) -> Size | None:
    """Return the bucket for a picture: closest aspect ratio first, then the largest area.

    With `no_upscale` only buckets are looked at that the picture covers at its own size; there
    may be none.
    """
    most = (width, height) if params.no_upscale else (params.max_side, params.max_side)
    return closest(ladder(most, params), width, height)


def ladder(most: Size, params: Params) -> tuple[Size, ...]:
    """Return the buckets no larger than `most` of which one side cannot grow.

    For each side length the other is the longest that `resolution`, `max_side` and `most` allow:
    among all buckets, a small one would often match an aspect ratio best by accident.
    """
    sides = range(params.min_side, params.max_side + 1, params.steps)

    def longest(side: int, limit: int) -> int:
        limit = min(limit, params.max_side, params.resolution**2 // side)
        return limit // params.steps * params.steps

    wide = {(longest(side, most[0]), side) for side in sides if side <= most[1]}
    tall = {(side, longest(side, most[1])) for side in sides if side <= most[0]}
    return tuple(sorted(size for size in wide | tall if min(size) >= params.min_side))


def closest(buckets: Sequence[Size], width: int, height: int) -> Size | None:
    """Return the bucket of the closest aspect ratio, the largest of several; exact arithmetic."""

    def rank(bucket: Size) -> tuple[Fraction, int, Size]:
        ratio = Fraction(bucket[0] * height, bucket[1] * width)
        return max(ratio, 1 / ratio), -bucket[0] * bucket[1], bucket

    return min(buckets, key=rank, default=None)


def geometry(row: Row, bucket: Size) -> dict[str, Any]:
    """Return a row of BUCKETS: resize to cover the bucket, cut the middle."""
    resized = cover((row["width"], row["height"]), bucket)
    return {
        **{name: row[name] for name in ("sample_id", "content", "path", "split")},
        "bucket": f"{bucket[0]}x{bucket[1]}",
        "resize_width": resized[0],
        "resize_height": resized[1],
        "crop_left": (resized[0] - bucket[0]) // 2,
        "crop_top": (resized[1] - bucket[1]) // 2,
        "width": bucket[0],
        "height": bucket[1],
        "original_width": row["width"],
        "original_height": row["height"],
    }


def cover(size: Size, bucket: Size) -> Size:
    """Return the smallest size of the same aspect ratio that covers the bucket, rounded."""
    (width, height), (wide, high) = size, bucket
    if wide * height >= high * width:  # the width decides
        return wide, (2 * height * wide + width) // (2 * width)
    return (2 * width * high + height) // (2 * height), high


def histogram(rows: Sequence[Row]) -> list[tuple[str, int, int, int]]:
    """Count the pictures of each bucket, sorted by size."""
    counts = Counter((row["width"], row["height"]) for row in rows)
    return [(f"{w}x{h}", w, h, counts[w, h]) for w, h in sorted(counts)]


def too_small(params: Params) -> str:
    """Return the reason for leaving a picture out."""
    return (
        f"smaller than the smallest bucket {params.min_side}x{params.min_side} "
        f"(data.min_bucket_resolution), and data.no_upscale is true"
    )


def ledger(
    images: Sequence[Row], buckets: Mapping[str, Size | None], reason: str
) -> list[dict[str, Any]]:
    """Return the fate of each sample, sorted by path."""
    return [
        {
            "path": row["path"],
            "sample_id": row["sample_id"],
            "stage": "bucket",
            "fate": FATE_OF_SPLIT[row["split"]] if buckets[row["sample_id"]] else "excluded",
            "reason": "" if buckets[row["sample_id"]] else reason,
        }
        for row in sorted(images, key=lambda row: str(row["path"]))
    ]


if __name__ == "__main__":
    launch.main("bucket", run, Params)
