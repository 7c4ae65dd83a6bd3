"""What holds for pictures of any size, in any order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stages.bucket.choice import Ladders
from stages.bucket.geometry import CORNERS, Crop, cover, crops_of
from stages.bucket.ladder import ByRatio, Size, covers
from stages.bucket.samples import Picture
from tests.data.bucketing import DIGITS, Row, bucket, image_row

SIDES = st.integers(1, 6000)
SIZES = st.tuples(SIDES, SIDES)
SHARES = st.none() | st.floats(0, 1)


@st.composite
def ladders(draw: Callable[..., Any], **fixed: Any) -> Ladders:
    steps = draw(st.sampled_from((1, 8, 32, 64)))
    smallest = draw(st.integers(1, 16))
    resolution = draw(st.integers(smallest, 24))
    largest = draw(st.integers(resolution, 40))
    others = draw(st.sets(st.integers(smallest, largest), max_size=2)) - {resolution}
    multiples = tuple(steps * each for each in sorted(others))
    sides = (steps, steps * smallest, steps * largest)
    choice = Ladders(steps * resolution, multiples, *sides, draw(st.booleans()))
    return replace(choice, **fixed)


def ratio_error(size: Size, other: Size) -> Fraction:
    ratio = Fraction(size[0] * other[1], size[1] * other[0])
    return max(ratio, 1 / ratio)


@settings(deadline=None)
@given(ladders(), SIZES)
def test_a_bucket_has_allowed_sides_and_no_more_pixels_than_its_resolution(
    choice: Ladders, size: Size
) -> None:
    buckets = choice.of_target(size)
    assert set(buckets) <= {choice.resolution, *choice.others}
    assert len(set(buckets.values())) == len(buckets)
    for resolution, (width, height) in buckets.items():
        assert width % choice.steps == height % choice.steps == 0
        assert choice.min_side <= min(width, height)
        assert max(width, height) <= choice.max_side
        assert width * height <= resolution**2
        assert covers(size, (width, height)) or (
            not choice.no_upscale and resolution == choice.resolution
        )


@settings(deadline=None)
@given(ladders(), SIZES)
def test_only_a_picture_too_small_for_the_smallest_bucket_has_none(
    choice: Ladders, size: Size
) -> None:
    too_small = choice.no_upscale and min(size) < choice.min_side
    assert (not choice.of_target(size)) == too_small


@settings(deadline=None)
@given(ladders(others=()), SIZES)
def test_the_aspect_ratio_is_off_by_less_than_a_step_of_each_side(
    choice: Ladders, size: Size
) -> None:
    longest = Fraction(choice.max_side, max(size))
    scale = min(longest, 1) if choice.no_upscale else longest
    limit = float(choice.resolution) / (size[0] * size[1]) ** 0.5
    scaled = [float(min(scale, Fraction(limit))) * side for side in size]
    assume(min(scaled) >= choice.min_side + 1e-6)  # else the ladder ends before its shape
    found = choice.of_target(size)[choice.resolution]
    a_step = 1 + Fraction(choice.steps, choice.min_side)
    assert ratio_error(size, found) <= a_step**2


@settings(deadline=None)
@given(st.sets(st.tuples(st.integers(1, 300), st.integers(1, 300)), max_size=12), SIZES)
def test_the_closest_bucket_is_that_of_exact_arithmetic(buckets: set[Size], size: Size) -> None:
    def rank(each: Size) -> tuple[Fraction, int, Size]:
        return ratio_error(size, each), -each[0] * each[1], each

    assert ByRatio(buckets).closest(size) == min(buckets, key=rank, default=None)


@pytest.mark.parametrize("type", CORNERS)
@settings(deadline=None)
@given(choice=ladders(), size=SIZES, focal=st.tuples(SHARES, SHARES), flip=st.booleans())
def test_a_crop_lies_inside_the_picture_resized_to_cover_the_bucket(
    type: str, choice: Ladders, size: Size, focal: tuple[float | None, float | None], flip: bool
) -> None:
    target = Picture("a", "target", 0, "a", "a.png", *size, "train", 1, 1.0, False, *focal)
    crop = Crop(type, 2 if type == "random" else 1, flip, 0)
    for resolution, found in choice.of_target(size).items():
        geometries = crops_of(target, resolution, found, crop)
        assert len(geometries) == crop.variants * (1 + flip)
        for each in geometries:
            assert (each.width, each.height) == found
            assert 0 <= each.crop_left <= each.resize_width - each.width
            assert 0 <= each.crop_top <= each.resize_height - each.height
        assert [each.flipped for each in geometries] == sorted(each.flipped for each in geometries)


@settings(deadline=None)
@given(SIZES, SIZES)
def test_a_resized_picture_covers_its_bucket_and_keeps_its_aspect_ratio(
    size: Size, found: Size
) -> None:
    resized = cover(size, found)
    scale = max(Fraction(found[0], size[0]), Fraction(found[1], size[1]))
    assert covers(resized, found)
    assert resized[0] == found[0] or resized[1] == found[1]
    assert abs(resized[0] - size[0] * scale) <= Fraction(1, 2)
    assert abs(resized[1] - size[1] * scale) <= Fraction(1, 2)
    assert covers(size, resized) or not covers(size, found)


ANY = replace(DIGITS, resolutions=(96,), max_side=192, crop="random", crop_variants=2, flip=True)
SMALL_SIDES = st.integers(20, 300)


@st.composite
def samples(draw: Callable[..., Any], name: str) -> list[Row]:
    """Draw a target with a mask of its size and references, some of which do not fit."""
    width, height = draw(SMALL_SIDES), draw(SMALL_SIDES)
    split = draw(st.sampled_from(("train", "train", "validation")))
    rows = [image_row(width, height, name, split=split)]
    if draw(st.booleans()):
        rows.append(image_row(width, height, name, role="mask", split=split))
    for index in range(draw(st.integers(0, 2))):
        size = draw(st.tuples(SMALL_SIDES, SMALL_SIDES))
        rows.append(image_row(*size, name, role="reference", index=index, split=split))
    return rows


DATASETS = st.tuples(*(samples(name) for name in "bcde")).map(
    lambda parts: [row for part in parts for row in part]
)


def bucketed(images: list[Row], **changed: Any) -> Any:
    large = image_row(192, 192, "zz")  # so that one picture at least fits
    with TemporaryDirectory() as folder:
        out = bucket(Path(folder), [*images, large], replace(ANY, **changed))
        return out.files, out.rows, out.fates


@settings(max_examples=25, deadline=None)
@given(st.data(), DATASETS, st.sampled_from(("keep", "merge")))
def test_the_order_of_the_pictures_changes_no_byte(
    data: st.DataObject, images: list[Row], small: str
) -> None:
    changed = {"small_buckets": small, "min_bucket_images": 1 if small == "keep" else 2}
    shuffled = data.draw(st.permutations(images))
    assert bucketed(shuffled, **changed)[0] == bucketed(images, **changed)[0]


@settings(max_examples=25, deadline=None)
@given(DATASETS, samples("c1"))
def test_another_picture_changes_no_row_of_the_others(
    images: list[Row], another: list[Row]
) -> None:
    _, before, fates_before = bucketed(images)
    _, after, fates = bucketed(images + another)
    assert [row for row in after if row["sample_id"] != "c1"] == before
    assert {path: fate for path, fate in fates.items() if path != "c1.png"} == fates_before


@settings(max_examples=25, deadline=None)
@given(DATASETS, st.sampled_from(("keep", "merge")))
def test_every_sample_has_all_its_rows_or_a_reason(images: list[Row], small: str) -> None:
    minimum = 1 if small == "keep" else 2
    _, rows, fates = bucketed(images, small_buckets=small, min_bucket_images=minimum)
    written: dict[str, set[tuple[Any, ...]]] = {}
    for row in rows:
        place = (row["role"], row["index"], row["resolution"], row["variant"])
        assert place not in written.setdefault(row["sample_id"], set())
        written[row["sample_id"]].add(place)
    for name in {row["sample_id"] for row in images}:
        fate, reason = fates[f"{name}.png"]
        assert (fate == "excluded") == bool(reason) == (name not in written)
        if name in written:
            roles = {(row["role"], row["index"]) for row in images if row["sample_id"] == name}
            resolutions = {place[2] for place in written[name]}
            assert written[name] == {
                (*role, resolution, variant)
                for role in roles
                for resolution in resolutions
                for variant in range(4)
            }
