"""The buckets of a resolution, and which of them has the aspect ratio closest to a picture's."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple, TypeAlias

Size: TypeAlias = tuple[int, int]  # width, height in pixels


class Limits(NamedTuple):
    """What a bucket of a resolution may be."""

    resolution: int  # a bucket has at most its square pixels
    steps: int  # sides are multiples of it
    min_side: int  # pixels, a multiple of steps
    max_side: int  # pixels


class ByRatio:
    """Buckets in the order of their aspect ratio, to find the closest to a picture's."""

    def __init__(self, sizes: Iterable[Size]) -> None:
        """Take the buckets; of those with equal aspect ratio the largest counts."""
        largest = {width / height: (width, height) for width, height in sorted(sizes)}
        self.ratios = sorted(largest)  # floats differ where fractions of sides below 2**26 do
        self.sizes = [largest[ratio] for ratio in self.ratios]

    def closest(self, size: Size) -> Size | None:
        """Return the bucket from whose aspect ratio the picture's is off by the smallest factor.

        Of two that are as far off, one narrower and one wider, the larger counts, then the
        narrower; the comparison is exact.
        """
        width, height = size
        place = bisect_right(self.ratios, width / height)
        around = self.sizes[max(place - 1, 0) : place + 1]
        if len(around) < 2:
            return around[0] if around else None
        narrower, wider = around
        too_narrow = width * width * narrower[1] * wider[1]  # over a common denominator
        too_wide = height * height * narrower[0] * wider[0]
        if too_narrow != too_wide:
            return narrower if too_narrow < too_wide else wider
        return narrower if area(narrower) >= area(wider) else wider


@cache
def by_ratio(sizes: tuple[Size, ...]) -> ByRatio:
    """Sort buckets by their aspect ratio, once."""
    return ByRatio(sizes)


@cache
def ladder(most: Size, limits: Limits) -> ByRatio:
    """Return the buckets no larger than `most` of which one side cannot grow.

    For each side length the other is the longest that `limits` and `most` allow: among all
    buckets, a small one would often match an aspect ratio best by accident.
    """
    sides = range(limits.min_side, limits.max_side + 1, limits.steps)

    def longest(side: int, limit: int) -> int:
        limit = min(limit, limits.max_side, limits.resolution**2 // side)
        return limit // limits.steps * limits.steps

    wide = {(longest(side, most[0]), side) for side in sides if side <= most[1]}
    tall = {(side, longest(side, most[1])) for side in sides if side <= most[0]}
    return ByRatio(size for size in wide | tall if min(size) >= limits.min_side)


def covers(size: Size, bucket: Size) -> bool:
    """Whether a picture fills a bucket without being enlarged."""
    return size[0] >= bucket[0] and size[1] >= bucket[1]


def area(size: Size) -> int:
    """Return the pixels of a picture or bucket."""
    return size[0] * size[1]
