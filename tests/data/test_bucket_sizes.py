"""Listed buckets, and buckets with few pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.bucket.stage import create_choice
from tests.data.bucketing import DIGITS, PHOTOS, Row, bucket, image_row

LISTED = replace(PHOTOS, buckets=("1024x1024", "512x512", "832x1216", "1216x832", "1344x768"))
MERGED = replace(DIGITS, small_buckets="merge", min_bucket_images=3, max_side=256)


@pytest.mark.parametrize(
    ("size", "closest"),
    [
        ((2000, 2000), (1024, 1024)),  # the larger of two squares
        ((600, 600), (512, 512)),
        ((2000, 1400), (1216, 832)),
        ((1200, 900), (512, 512)),  # too small for all others
        ((1300, 860), (1216, 832)),
        ((3000, 1000), (1344, 768)),
    ],
)
def test_a_listed_bucket_is_the_closest_that_the_picture_covers(
    size: tuple[int, int], closest: tuple[int, int]
) -> None:
    assert create_choice(LISTED).of_target(size) == {1024: closest}


def test_a_listed_bucket_may_be_enlarged_to_where_that_is_allowed() -> None:
    choice = create_choice(replace(LISTED, no_upscale=False))
    assert choice.of_target((120, 90)) == {1024: (1216, 832)}


def test_a_picture_that_covers_no_listed_bucket_is_excluded(tmp_path: Path) -> None:
    out = bucket(tmp_path, [image_row(600, 600, "a"), image_row(600, 500, "b")], LISTED)
    assert out.places("sample_id", "bucket") == [("a", "512x512")]
    assert out.fates["b.png"] == (
        "excluded",
        "it is 600x500 pixels, too small for each of data.buckets, and data.no_upscale is true",
    )


def several(count: int, width: int, height: int, name: str, **changed: Any) -> list[Row]:
    return [image_row(width, height, f"{name}{i}", **changed) for i in range(count)]


def buckets_of(folder: Path, images: Sequence[Row], **changed: Any) -> Counter[str]:
    rows = bucket(folder, images, replace(MERGED, **changed)).rows
    return Counter(f"{row['sample_id'][0]} {row['bucket']}" for row in rows)


def test_pictures_of_a_small_bucket_move_to_the_closest_that_has_enough(tmp_path: Path) -> None:
    images = several(3, 128, 32, "wide") + several(3, 64, 64, "square")
    images += several(2, 110, 33, "a") + several(2, 33, 110, "tall")
    assert buckets_of(tmp_path / "kept", images, small_buckets="keep", min_bucket_images=1) == {
        **{"w 128x32": 3, "s 64x64": 3, "a 96x32": 2, "t 32x96": 2}
    }
    assert buckets_of(tmp_path / "merged", images) == {
        **{"w 128x32": 3, "s 64x64": 3},
        **{"a 96x32": 2, "t 32x96": 2},  # they cover none of the others
    }
    enlarged = buckets_of(tmp_path / "enlarged", images, no_upscale=False)
    assert enlarged == {"w 128x32": 3, "a 128x32": 2, "s 64x64": 3, "t 64x64": 2}


def test_the_report_names_what_moved_and_what_could_not(tmp_path: Path) -> None:
    images = several(3, 64, 64, "square") + several(1, 130, 65, "moves")
    images += several(1, 40, 33, "stays") + several(1, 70, 300, "v", split="validation")
    report = bucket(tmp_path, images, MERGED).report
    columns = ("bucket", "num_images", "num_validation", "merged_in", "is_small")
    assert [tuple(row[column] for column in columns) for row in report] == [
        ("32x32", "1", "0", "0", "1"),
        ("64x64", "4", "1", "2", "0"),
    ]
    assert float(report[1]["mean_cropped_fraction"]) == pytest.approx(
        (0 + 0 + 0 + 1 / 2 + 210 / 274) / 5, abs=2e-3
    )


def test_validation_pictures_make_no_bucket_large_enough(tmp_path: Path) -> None:
    images = several(3, 64, 64, "square") + several(9, 128, 64, "v", split="validation")
    assert buckets_of(tmp_path, images) == {"s 64x64": 3, "v 64x64": 9}


def test_a_bucket_of_less_than_half_the_pixels_is_taken_only_if_there_is_no_other(
    tmp_path: Path,
) -> None:
    small, photo = several(3, 64, 32, "two_to_one"), several(1, 140, 70, "photo")
    wide = replace(MERGED, resolution=96)
    images = small + several(3, 96, 96, "square") + photo
    assert ("photo0", "64x32") in bucket(tmp_path / "1", small + photo, wide).places(
        "sample_id", "bucket"
    )
    tall = several(3, 140, 64, "other")
    found = bucket(tmp_path / "2", images + tall, wide).places("sample_id", "bucket")
    assert ("photo0", "128x64") in found


def test_a_picture_moves_within_its_resolution_and_is_never_twice_in_a_bucket(
    tmp_path: Path,
) -> None:
    params = replace(MERGED, resolutions=(128,))
    images = several(3, 128, 128, "square") + several(1, 256, 64, "wide")
    out = bucket(tmp_path, images, params)
    places = [row[1:] for row in out.places("sample_id", "resolution", "bucket") if "w" in row[0]]
    assert places == [(64, "64x64"), (128, "256x64")]  # it does not cover 128x128
    covering = several(3, 128, 128, "square") + several(1, 512, 128, "wide")
    out = bucket(tmp_path / "2", covering, params)
    places = [row[1:] for row in out.places("sample_id", "resolution", "bucket") if "w" in row[0]]
    assert places == [(64, "64x64"), (128, "128x128")]


def test_who_moves_does_not_depend_on_the_order(tmp_path: Path) -> None:
    images = several(2, 64, 64, "s") + several(2, 96, 32, "w") + several(2, 130, 66, "z")
    images += several(3, 64, 32, "a")
    first = bucket(tmp_path / "1", images, MERGED).files
    assert bucket(tmp_path / "2", images[::-1], MERGED).files == first
