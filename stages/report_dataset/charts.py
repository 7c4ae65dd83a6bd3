"""Bars and points of the page's charts, placed in percent of the chart's sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BARS = 56  # of a histogram, at most
NICE = (1, 2, 5)  # steps of an axis are these times a power of ten
POINTS = 400  # of the scatter of sizes, at most
FAR = 2  # an axis reaches a limit of up to so many times the longest


@dataclass(frozen=True)
class Bar:
    """One bin."""

    first: int  # of the values in it
    last: int
    count: int
    height: float  # percent of the highest
    is_over: bool  # beyond the limit


@dataclass(frozen=True)
class Tick:
    """A number on an axis."""

    value: int
    at: float  # percent from its start


@dataclass(frozen=True)
class Histogram:
    """Counts of whole numbers from 0, with a limit."""

    bars: Sequence[Bar]
    most: int  # count of the highest bar
    limit: int
    limit_at: float | None  # percent from the left; None: beyond the right end
    ticks: Sequence[Tick]


@dataclass(frozen=True)
class Point:
    """Pictures of about one size."""

    width: int  # pixels
    height: int
    count: int
    x: float  # percent from the left
    y: float  # percent from the top
    radius: float  # percent of the width


@dataclass(frozen=True)
class Scatter:
    """Sizes of pictures, one unit for both axes."""

    points: Sequence[Point]  # most pictures first
    buckets: Sequence[Point]
    across: Sequence[Tick]
    up: Sequence[Tick]
    end: tuple[int, int]  # pixels at the ends of the axes


def nice_step(span: float, steps: int) -> int:
    """Return a round whole number that divides `span` into at most `steps` parts."""
    scale = 1
    while True:
        for factor in NICE:
            if factor * scale * steps >= span:
                return factor * scale
        scale *= 10


def ticks(end: int, steps: int, start: int = 0) -> list[Tick]:
    """Return round numbers from 0 to below `end` on an axis from `start` to `end`."""
    step = nice_step(end, steps)
    return [Tick(value, 100 * (value - start) / (end - start)) for value in range(0, end, step)]


def histogram(lengths: Iterable[tuple[int, int]], limit: int) -> Histogram:
    """Bin lengths so that no bin holds both what fits and what does not.

    Args:
        lengths: Pairs of a length and how often it comes.
        limit: The largest length that fits.
    """
    counts = Counter(dict(lengths))
    longest = max(counts, default=0)
    reaches_limit = limit <= FAR * longest
    end = max(longest, limit if reaches_limit else 0) + 1
    end += -(-end // 20)  # room beyond the last bar
    width = nice_step(end, BARS)
    origin = (limit + 1) % width - width if (limit + 1) % width else 0
    bins: Counter[int] = Counter()
    for length, count in counts.items():
        bins[(length - origin) // width] += count
    most = max(bins.values(), default=0)
    total = -(-(end - origin) // width)
    bars = [
        Bar(
            first=max(0, origin + i * width),
            last=origin + (i + 1) * width - 1,
            count=bins[i],
            height=100 * bins[i] / most if most else 0,
            is_over=origin + i * width > limit,
        )
        for i in range(total)
    ]
    end = origin + total * width
    at = 100 * (limit + 1 - origin) / (end - origin) if reaches_limit else None
    return Histogram(bars, most, limit, at, ticks(end, 8, origin))


def scatter(sizes: Sequence[tuple[int, int]], buckets: Iterable[tuple[int, int]]) -> Scatter:
    """Place pictures and buckets by width and height; where there are many sizes, near ones join.

    Args:
        sizes: Width and height of every picture, pixels.
        buckets: Width and height of every bucket.
    """
    listed = sorted(set(buckets))
    ends = [
        round(1.08 * max([1, *(size[axis] for size in [*sizes, *listed])])) + 1 for axis in (0, 1)
    ]
    counts = Counter(sizes)
    grain = 1
    while len(counts) > POINTS:
        grain *= 2
        counts = Counter((_to(width, grain), _to(height, grain)) for width, height in sizes)
    most = max(counts.values(), default=1)

    def point(size: tuple[int, int], count: int) -> Point:
        x, y = (100 * side / end for side, end in zip(size, ends, strict=True))
        return Point(*size, count, x, 100 - y, 0.7 + 2.3 * (count / most) ** 0.5)

    points = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return Scatter(
        [point(*item) for item in points],
        [point(size, 0) for size in listed],
        ticks(ends[0], 6),
        ticks(ends[1], 6),
        (ends[0], ends[1]),
    )


def _to(side: int, grain: int) -> int:
    return max(1, round(side / grain) * grain)
