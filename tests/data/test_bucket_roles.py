"""What belongs to a target keeps its place over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.bucket.roles import have_one_shape
from stages.pixels import crop_to_bucket
from tests.data.bucketing import DIGITS, Row, bucket, image_row

SHARED = ("resize_width", "resize_height", "crop_left", "crop_top", "width", "height", "flipped")
EVERYTHING = replace(
    DIGITS, resolutions=(96,), max_side=192, crop="random", crop_variants=2, flip=True
)


def gradient(width: int, height: int) -> Image.Image:
    """Draw a picture that tells where each pixel is: red from left to right, green down."""
    across = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    pixels = np.stack([across, down, np.zeros_like(across)], axis=2)
    return Image.fromarray(np.round(pixels).astype(np.uint8))


def cut(row: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    picture = gradient(row["original_width"], row["original_height"])
    return crop_to_bucket(picture, row).astype(np.int64)


def by_place(rows: list[Row]) -> dict[tuple[str, int], dict[tuple[int, int], Row]]:
    found: dict[tuple[str, int], dict[tuple[int, int], Row]] = {}
    for row in rows:
        of_role = found.setdefault((row["role"], row["index"]), {})
        of_role[row["resolution"], row["variant"]] = row
    return found


def bucket_once(images: list[Row], **changed: Any) -> list[Row]:
    with TemporaryDirectory() as folder:
        return bucket(Path(folder), images, replace(EVERYTHING, **changed)).rows


@settings(max_examples=20, deadline=None)
@given(
    st.integers(32, 400),
    st.integers(32, 400),
    st.sampled_from(("center", "random", "focal")),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_marks_stay_over_one_another_in_all_roles_crops_and_flips(
    width: int, height: int, crop: str, focal: tuple[float, float]
) -> None:
    rows = bucket_once(
        [
            image_row(width, height, focal_x=focal[0], focal_y=focal[1]),
            image_row(width, height, role="mask"),
            image_row(width, height, role="reference"),
            image_row(2 * width, 2 * height, role="condition"),
        ],
        crop=crop,
        crop_variants=2 if crop == "random" else 1,
    )
    found = by_place(rows)
    targets = found["target", 0]
    for place, target in targets.items():
        pixels = cut(target)
        assert np.array_equal(cut(found["mask", 0][place]), pixels)
        assert np.array_equal(cut(found["reference", 0][place]), pixels)
        assert np.abs(cut(found["condition", 0][place]) - pixels).max() <= 8  # half a pixel
        mirrored = targets[place[0], place[1] ^ 1 if crop != "random" else (place[1] + 2) % 4]
        assert mirrored["flipped"] != target["flipped"]
        assert np.array_equal(cut(mirrored)[:, ::-1], pixels)


def test_a_mask_of_another_size_is_resized_and_cut_as_its_target_is(tmp_path: Path) -> None:
    images = [
        image_row(301, 100),
        image_row(151, 50, role="mask"),  # half of it, rounded up
        image_row(602, 200, role="condition"),
    ]
    rows = bucket(tmp_path, images, EVERYTHING).rows
    found = by_place(rows)
    for place, target in found["target", 0].items():
        for role in ("mask", "condition"):
            row = found[role, 0][place]
            assert [row[column] for column in SHARED] == [target[column] for column in SHARED]
            assert (row["original_width"], row["bucket"]) == (
                {"mask": 151, "condition": 602}[role],
                target["bucket"],
            )


@pytest.mark.parametrize(
    ("size", "other", "alike"),
    [
        ((300, 100), (300, 100), True),
        ((300, 100), (100, 300), False),  # not turned
        ((300, 100), (151, 50), True),
        ((300, 100), (155, 50), False),
        ((101, 75), (2000, 1500), True),  # the target is the rounded one
        ((103, 75), (2000, 1500), False),
        ((4000, 3000), (40, 31), True),
        ((4000, 3000), (40, 32), False),
    ],
)
def test_one_shape_allows_a_pixel_of_rounding(
    size: tuple[int, int], other: tuple[int, int], alike: bool
) -> None:
    assert have_one_shape(size, other) == have_one_shape(other, size) == alike


@pytest.mark.parametrize("role", ["mask", "condition"])
def test_a_mask_of_another_shape_excludes_its_sample(tmp_path: Path, role: str) -> None:
    images = [image_row(300, 100, "a"), image_row(100, 300, "a", role=role)]
    out = bucket(tmp_path, [*images, image_row(64, 64, "b")])
    assert {row["sample_id"] for row in out.rows} == {"b"}
    assert out.fates["a.png"] == (
        "excluded",
        f"its {role} {role}0/a.png is 100x300 pixels, which is not the aspect ratio of the "
        "target's 300x100",
    )


def test_a_reference_of_another_size_has_the_bucket_of_its_own_shape(tmp_path: Path) -> None:
    images = [image_row(400, 200), image_row(101, 310, role="reference", index=1)]
    found = by_place(bucket(tmp_path, images, EVERYTHING).rows)
    rows = found["reference", 1]
    assert rows.keys() == found["target", 0].keys()
    assert {(place[0], row["bucket"]) for place, row in rows.items()} == {
        (64, "32x96"),
        (96, "64x128"),
    }
    for place, row in rows.items():
        assert row["crop_left"] == (row["resize_width"] - row["width"]) // 2
        assert row["crop_top"] == (row["resize_height"] - row["height"]) // 2
        assert row["flipped"] == found["target", 0][place]["flipped"]


def test_a_reference_that_fits_no_bucket_excludes_its_sample(tmp_path: Path) -> None:
    images = [image_row(300, 100, "a"), image_row(20, 300, "a", role="reference")]
    out = bucket(tmp_path, [*images, image_row(64, 64, "b")])
    fate, reason = out.fates["a.png"]
    assert fate == "excluded"
    assert reason.startswith("its reference reference0/a.png is 20x300 pixels, smaller than")
    enlarged = bucket(tmp_path / "2", images, replace(DIGITS, no_upscale=False))
    assert len(enlarged.rows) == 2


def test_a_mask_moves_with_its_target_out_of_a_small_bucket(tmp_path: Path) -> None:
    merged = replace(DIGITS, small_buckets="merge", min_bucket_images=3)
    images = [image_row(64, 64, f"square{i}") for i in range(3)]
    images += [image_row(130, 66, "z"), image_row(130, 66, "z", role="mask")]
    rows = bucket(tmp_path, images, merged).rows
    assert [(r["role"], r["bucket"]) for r in rows if r["sample_id"] == "z"] == [
        ("target", "64x64"),
        ("mask", "64x64"),
    ]
