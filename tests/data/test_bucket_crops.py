from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.data.bucketing import DIGITS, bucket, image_row

RANDOM = replace(DIGITS, crop="random", crop_variants=3)
WIDE = (32 * 30, 32)  # at 64x32 or less it loses most of its columns


def test_random_crops_are_rows_of_their_own_in_one_bucket(tmp_path: Path) -> None:
    rows = bucket(tmp_path, [image_row(*WIDE, "a"), image_row(*WIDE, "b")], RANDOM).rows
    assert [(row["sample_id"], row["variant"]) for row in rows] == [
        (name, variant) for name in "ab" for variant in range(3)
    ]
    assert len({row["bucket"] for row in rows}) == 1
    assert len({row["crop_left"] for row in rows}) == 6


def test_random_crops_reach_every_column(tmp_path: Path) -> None:
    many = replace(RANDOM, crop_variants=200)
    rows = bucket(tmp_path, [image_row(36, 32)], many).rows
    assert {row["crop_left"] for row in rows} == set(range(5))
    assert {row["crop_top"] for row in rows} == {0}


def test_more_crops_keep_those_there_were_and_another_seed_keeps_none(tmp_path: Path) -> None:
    def lefts(name: str, **changed: int) -> list[int]:
        out = bucket(tmp_path / name, [image_row(*WIDE)], replace(RANDOM, **changed))
        return [row["crop_left"] for row in out.rows]

    first = lefts("first")
    assert lefts("more", crop_variants=5)[:3] == first
    assert not set(lefts("seed", seed=1)) & set(first)


def test_a_crop_is_drawn_anew_at_each_resolution(tmp_path: Path) -> None:
    params = replace(RANDOM, resolution=96, resolutions=(64,), max_side=256)
    rows = bucket(tmp_path, [image_row(2000, 200)], replace(params, crop_variants=1)).rows
    shares = [row["crop_left"] / (row["resize_width"] - row["width"]) for row in rows]
    assert [row["resolution"] for row in rows] == [64, 96]
    assert abs(shares[0] - shares[1]) > 0.01


def test_a_drawn_crop_is_the_same_in_any_version_of_the_program(tmp_path: Path) -> None:
    rows = bucket(tmp_path, [image_row(*WIDE)], RANDOM).rows
    assert [row["crop_left"] for row in rows] == [211, 734, 393]


def test_mirrored_variants_follow_with_the_same_crops(tmp_path: Path) -> None:
    rows = bucket(tmp_path, [image_row(*WIDE)], replace(RANDOM, flip=True)).rows
    assert [row["variant"] for row in rows] == list(range(6))
    assert [row["flipped"] for row in rows] == [False] * 3 + [True] * 3
    lefts = [row["crop_left"] for row in rows]
    assert lefts[:3] == lefts[3:]


def test_a_focal_point_is_kept_in_the_middle_as_far_as_the_edges_allow(tmp_path: Path) -> None:
    points = {"a": (0.0, 0.5), "b": (0.5, 0.5), "c": (0.6, 0.9), "d": (1.0, 0.0)}
    images = [image_row(320, 32, name, focal_x=x, focal_y=y) for name, (x, y) in points.items()]
    images.append(image_row(320, 32, "none"))
    rows = bucket(tmp_path, images, replace(DIGITS, crop="focal")).rows
    assert {(row["resize_width"], row["width"], row["crop_top"]) for row in rows} == {(320, 128, 0)}
    assert [row["crop_left"] for row in rows] == [0, 96, 128, 192, 96]


def test_a_tall_picture_keeps_its_focal_point_too(tmp_path: Path) -> None:
    rows = bucket(
        tmp_path,
        [image_row(32, 320, focal_x=0.1, focal_y=0.6)],
        replace(DIGITS, crop="focal"),
    ).rows
    assert [(row["crop_left"], row["crop_top"]) for row in rows] == [(0, 128)]
