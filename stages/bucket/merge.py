"""Move the pictures of buckets that have few of them to buckets that have more."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.bucket.choice import distinct
from stages.bucket.ladder import Size, area, by_ratio, covers
from stages.bucket.samples import Sample


@dataclass(frozen=True)
class Placed:
    """A sample and the bucket of its target at each resolution."""

    sample: Sample
    buckets: Mapping[int, Size]  # by resolution, smallest first
    moved: frozenset[int] = frozenset()  # resolutions at which the bucket is not the closest


def count_training(placed: Sequence[Placed]) -> Counter[Size]:
    """Count the targets to train on in each bucket, at all resolutions together."""
    return Counter(
        bucket
        for each in placed
        if each.sample.target.split == "train"
        for bucket in each.buckets.values()
    )


def merge(
    placed: Sequence[Placed], min_images: int, no_upscale: bool, resolution: int
) -> list[Placed]:
    """Move pictures out of the buckets with fewer than `min_images` to train on.

    All moves are chosen from the counts before any of them, so the order does not matter, and no
    bucket that has enough loses a picture. Where no bucket can take a picture, it stays.

    Args:
        placed: The samples in their closest buckets.
        min_images: Training pictures of a bucket that keeps its pictures.
        no_upscale: Pictures go to buckets only that they cover.
        resolution: `data.resolution`, which stays of two that a move gives the same bucket.
    """
    counts = count_training(placed)
    enough: defaultdict[int, set[Size]] = defaultdict(set)
    for each in placed:
        for at, bucket in each.buckets.items():
            if counts[bucket] >= min_images:
                enough[at].add(bucket)

    def moved(one: Placed) -> Placed:
        small = [at for at, bucket in one.buckets.items() if counts[bucket] < min_images]
        if not small:
            return one
        new = {
            at: nearest(one.sample.target.size, one.buckets[at], enough[at], no_upscale)
            for at in small
        }
        buckets = distinct({**one.buckets, **new}, resolution)
        gone = frozenset(at for at in small if at in buckets and new[at] != one.buckets[at])
        return Placed(one.sample, buckets, gone)

    return [moved(each) for each in placed]


def nearest(size: Size, bucket: Size, enough: set[Size], no_upscale: bool) -> Size:
    """Return the bucket of those with enough pictures whose aspect ratio is closest to a picture's.

    One of less than half the pixels of its own bucket only where there is no other; its own where
    none can take it.
    """
    able = sorted(each for each in enough if not no_upscale or covers(size, each))
    large = tuple(each for each in able if 2 * area(each) >= area(bucket))
    return by_ratio(large or tuple(able)).closest(size) or bucket
