"""How many pictures each bucket has, and what is cut off them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import fsum
from typing import Any

from stages.bucket.geometry import cover
from stages.bucket.ladder import Size, area
from stages.bucket.merge import Placed, count_training

COLUMNS = (
    "bucket",  # "64x32": width x height in pixels
    "width",
    "height",
    "resolution",  # pixels: the one of data.resolution(s) that the pictures are at
    "num_images",  # targets to train on
    "num_validation",  # targets to validate on
    "merged_in",  # of both, those from buckets with fewer than data.min_bucket_images
    "mean_cropped_fraction",  # of the resized pictures' pixels, 0 to 1
    "is_small",  # 1 where a bucket has fewer than data.min_bucket_images to train on, else 0
)
DIGITS = 4  # after the point


def report(placed: Sequence[Placed], min_images: int) -> list[tuple[Any, ...]]:
    """Return a row for each bucket and resolution, sorted by size."""
    counts: Counter[tuple[Size, int, str]] = Counter()
    merged_in: Counter[tuple[Size, int]] = Counter()
    cropped: defaultdict[tuple[Size, int], list[float]] = defaultdict(list)
    for each in placed:
        target = each.sample.target
        for resolution, bucket in each.buckets.items():
            counts[bucket, resolution, target.split] += 1
            merged_in[bucket, resolution] += resolution in each.moved
            resized = cover(target.size, bucket)
            cropped[bucket, resolution].append(1 - area(bucket) / area(resized))
    training = count_training(placed)
    return [
        (
            f"{bucket[0]}x{bucket[1]}",
            *bucket,
            resolution,
            counts[bucket, resolution, "train"],
            counts[bucket, resolution, "validation"],
            merged_in[bucket, resolution],
            round(fsum(lost) / len(lost), DIGITS),
            int(training[bucket] < min_images),
        )
        for (bucket, resolution), lost in sorted(cropped.items())
    ]
