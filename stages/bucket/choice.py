"""Which resolutions a picture is trained at, and its bucket at each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stages.bucket.ladder import Limits, Size, by_ratio, covers, ladder


class Choice(Protocol):
    """Where the buckets come from."""

    @property
    def too_small(self) -> str:
        """Say why a picture fits no bucket."""

    def of_target(self, size: Size) -> dict[int, Size]:
        """Return the bucket at each resolution that the target is trained at, smallest first."""

    def at(self, resolution: int, size: Size) -> Size | None:
        """Return the bucket of a picture, or None where it covers none and has to cover one."""


@dataclass(frozen=True)
class Listed:
    """The buckets that the user lists: the closest aspect ratio, the largest of several."""

    resolution: int  # pixels; names the rows
    sizes: tuple[Size, ...]
    no_upscale: bool

    @property
    def too_small(self) -> str:
        """Say why a picture fits no bucket."""
        return "too small for each of data.buckets, and data.no_upscale is true"

    def of_target(self, size: Size) -> dict[int, Size]:
        """Return the bucket at the one resolution."""
        return _given({self.resolution: self.at(self.resolution, size)})

    def at(self, resolution: int, size: Size) -> Size | None:
        """Return the closest of all buckets, or with `no_upscale` of those that are covered."""
        sizes = self.sizes
        if self.no_upscale:
            sizes = tuple(bucket for bucket in sizes if covers(size, bucket))
        return by_ratio(sizes).closest(size)


@dataclass(frozen=True)
class Ladders:
    """The buckets of one resolution or more."""

    resolution: int  # pixels: every target that fits a bucket has one here ...
    others: tuple[int, ...]  # ... and at those of these that it fills as it is
    steps: int  # as in Limits, like min_side and max_side
    min_side: int
    max_side: int
    no_upscale: bool  # only buckets that a picture covers

    @property
    def too_small(self) -> str:
        """Say why a picture fits no bucket."""
        return (
            f"smaller than the smallest bucket {self.min_side}x{self.min_side} "
            "(data.min_bucket_resolution), and data.no_upscale is true"
        )

    def of_target(self, size: Size) -> dict[int, Size]:
        """Return the bucket at each resolution that the target is trained at, smallest first.

        A picture that fills none of several has its bucket at the smallest, and where two
        resolutions give it the same bucket it has one of them.
        """
        if not self.others:
            return _given({self.resolution: self.at(self.resolution, size)})
        resolutions = sorted((self.resolution, *self.others))
        filled = [each for each in resolutions if self._is_filled(each, size)]
        if self.no_upscale and not filled:
            return _given({resolutions[0]: self.at(resolutions[0], size)})
        taken = sorted({self.resolution, *filled})
        buckets = _given({each: self.at(each, size) for each in taken})
        return distinct(buckets, self.resolution)

    def at(self, resolution: int, size: Size) -> Size | None:
        """Return the closest on the ladder, or with `no_upscale` on the ladder below the size."""
        limits = self._limits(resolution)
        if not self.no_upscale:
            return ladder((self.max_side, self.max_side), limits).closest(size)
        longest = min(self.max_side, resolution**2 // self.min_side)  # no bucket has a longer side
        width, height = (min(side, longest) // self.steps * self.steps for side in size)
        return ladder((width, height), limits).closest(size)

    def _is_filled(self, resolution: int, size: Size) -> bool:
        """Whether the picture covers the bucket that a larger one of its shape gets."""
        largest = (self.max_side, self.max_side)
        bucket = ladder(largest, self._limits(resolution)).closest(size)
        return bucket is not None and covers(size, bucket)

    def _limits(self, resolution: int) -> Limits:
        return Limits(resolution, self.steps, self.min_side, self.max_side)


def distinct(buckets: dict[int, Size], first: int) -> dict[int, Size]:
    """Keep one resolution of those with the same bucket: `first`, else the smallest."""
    kept = {buckets[each]: each for each in sorted(buckets, key=lambda r: (r == first, -r))}
    return {each: buckets[each] for each in sorted(kept.values())}


def _given(buckets: dict[int, Size | None]) -> dict[int, Size]:
    return {each: bucket for each, bucket in buckets.items() if bucket is not None}
