"""The geometry of what belongs to a target: the same as the target's, or its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stages.bucket.choice import Choice
from stages.bucket.geometry import Geometry, cover, middle
from stages.bucket.ladder import Size
from stages.bucket.samples import Picture, Sample
from stages.visit_geometry import ALIGNED, lies_over


def shares_geometry(picture: Picture, target: Picture) -> bool:
    """Whether a picture is resized and cut as its target is."""
    return lies_over(picture.role, picture.size, target.size)


def problem(sample: Sample, resolutions: Iterable[int], choice: Choice) -> str:
    """Say why the pictures that belong to a target cannot go with it; "" where they can."""
    target = sample.target
    for picture in sample.others:
        name = f"its {picture.role} {picture.path} is {picture.width}x{picture.height} pixels"
        if picture.role in ALIGNED and not have_one_shape(picture.size, target.size):
            return (
                f"{name}, which is not the aspect ratio of the target's "
                f"{target.width}x{target.height}"
            )
        if shares_geometry(picture, target):
            continue
        if any(choice.at(each, picture.size) is None for each in resolutions):
            return f"{name}, {choice.too_small}"
    return ""


def have_one_shape(first: Size, second: Size) -> bool:
    """Whether two sizes have the same aspect ratio, but for a pixel of rounding in one side."""
    off = abs(first[0] * second[1] - first[1] * second[0])
    return off <= max(*first, *second)


def geometries_of(
    picture: Picture,
    target: Picture,
    of_target: Sequence[Geometry],
    resolution: int,
    choice: Choice,
) -> Sequence[Geometry]:
    """Return the geometry of each variant of a picture that belongs to a target.

    A reference of another size than the target's has the bucket of its own aspect ratio at the
    same resolution, its middle is kept, and it is mirrored where the target is.
    """
    if shares_geometry(picture, target):
        return of_target
    bucket = choice.at(resolution, picture.size)
    assert bucket is not None, "a sample whose reference fits no bucket is left out"
    resized = cover(picture.size, bucket)
    corner = middle(resized, bucket)
    return [Geometry(*resized, *corner, *bucket, each.flipped) for each in of_target]
