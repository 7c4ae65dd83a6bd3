"""How a picture becomes its bucket: resized to cover it, cut, and mirrored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor
from typing import NamedTuple

from stages.bucket.ladder import Size
from stages.bucket.samples import Picture
from stages.randomness import generator
from stages.visit_geometry import Corner, corner


class Geometry(NamedTuple):
    """Columns of BUCKETS."""

    resize_width: int
    resize_height: int
    crop_left: int
    crop_top: int
    width: int  # of the bucket
    height: int
    flipped: bool


@dataclass(frozen=True)
class Crop:
    """What of a picture is kept, and how many versions of it there are."""

    type: str  # one of CORNERS
    variants: int  # crops of each picture; more than 1 only where they are drawn
    flip: bool  # each crop a second time, mirrored
    seed: int

    @property
    def flips(self) -> tuple[bool, ...]:
        """Say how often each crop is used: as it is, and mirrored."""
        return (False, True) if self.flip else (False,)


def crops_of(target: Picture, resolution: int, bucket: Size, crop: Crop) -> list[Geometry]:
    """Return the geometry of each variant of a target in its bucket at a resolution."""
    resized = cover(target.size, bucket)
    corners = CORNERS[crop.type](resized, bucket, target, resolution, crop)
    return [
        Geometry(*resized, *corner, *bucket, flipped)
        for flipped in crop.flips
        for corner in corners
    ]


def cover(size: Size, bucket: Size) -> Size:
    """Return the smallest size of the same aspect ratio that covers the bucket, rounded."""
    (width, height), (wide, high) = size, bucket
    if wide * height >= high * width:  # the width decides
        return wide, (2 * height * wide + width) // (2 * width)
    return (2 * width * high + height) // (2 * height), high


def middle(resized: Size, bucket: Size) -> Corner:
    """Return the corner of a crop that loses as much on either side, but for half a pixel."""
    return (resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2


def center(resized: Size, bucket: Size, *_: object) -> list[Corner]:
    """Keep the middle."""
    return [middle(resized, bucket)]


def drawn(
    resized: Size, bucket: Size, target: Picture, resolution: int, crop: Crop
) -> list[Corner]:
    """Keep any part, each equally often; other pictures and variants change no draw."""
    corners = []
    for variant in range(crop.variants):
        random = generator(crop.seed, "crop", target.sample_id, resolution, variant)
        across, down = random.random(2).tolist()
        corners.append(corner(across, down, resized, bucket))
    return corners


def around_focal_point(resized: Size, bucket: Size, target: Picture, *_: object) -> list[Corner]:
    """Keep the focal point in the middle as far as the edges allow; without one, the middle."""
    if target.focal_x is None or target.focal_y is None:
        return [middle(resized, bucket)]

    def start(share: float, whole: int, part: int) -> int:
        return min(max(floor(share * whole - part / 2), 0), whole - part)

    left = start(target.focal_x, resized[0], bucket[0])
    return [(left, start(target.focal_y, resized[1], bucket[1]))]


CORNERS: dict[str, Callable[[Size, Size, Picture, int, Crop], list[Corner]]] = {
    "center": center,
    "random": drawn,
    "focal": around_focal_point,
}
