from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stages.bucket.geometry import CORNERS
from stages.bucket.stage import Params, run
from stages.params.data import Data
from stages.params.read import declared_keys
from tests.data.bucketing import DIGITS, PHOTOS, bucket, image_row, ladders, write_inputs

ENLARGED = replace(PHOTOS, no_upscale=False)


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (96, 32)])
def test_digits_keep_their_size(size: tuple[int, int]) -> None:
    assert ladders(DIGITS).of_target(size) == {64: size}


@pytest.mark.parametrize(
    ("size", "closest"),
    [
        ((1920, 1088), (1344, 768)),  # not 1024x576, whose aspect ratio is closer by accident
        ((1088, 1920), (768, 1344)),
        ((1000, 1000), (960, 960)),
        ((5000, 5000), (1024, 1024)),
        ((700, 600), (640, 576)),
        ((9000, 600), (2048, 512)),
    ],
)
def test_a_picture_gets_the_closest_aspect_ratio_that_needs_no_enlarging(
    size: tuple[int, int], closest: tuple[int, int]
) -> None:
    assert ladders(PHOTOS).of_target(size) == {1024: closest}


def test_a_small_picture_is_enlarged_only_where_that_is_allowed() -> None:
    assert ladders(PHOTOS).of_target((300, 300)) == {}
    assert ladders(ENLARGED).of_target((300, 300)) == {1024: (1024, 1024)}


def test_every_captioned_sample_is_in_a_bucket_or_excluded_with_a_reason(tmp_path: Path) -> None:
    images = [
        image_row(32, 32, "a"),
        image_row(20, 32, "b"),
        image_row(64, 32, "c", split="validation"),
        image_row(33, 32, "d"),
        image_row(64, 64, "uncaptioned"),
    ]
    out = bucket(tmp_path, images, without_caption="uncaptioned")
    assert out.places("sample_id", "bucket") == [("a", "32x32"), ("c", "64x32"), ("d", "32x32")]
    assert out.fates == {
        "a.png": ("kept", ""),
        "b.png": (
            "excluded",
            "it is 20x32 pixels, smaller than the smallest bucket 32x32 "
            "(data.min_bucket_resolution), and data.no_upscale is true",
        ),
        "c.png": ("validation", ""),
        "d.png": ("kept", ""),
    }


def test_the_report_counts_each_bucket_and_what_is_cut_off(tmp_path: Path) -> None:
    images = [
        image_row(32, 32, "a", repeats=9),
        image_row(40, 32, "b"),
        image_row(64, 32, "c", split="validation"),
    ]
    wide = {"bucket": "64x32", "width": "64", "height": "32", "resolution": "64"}
    square = {"bucket": "32x32", "width": "32", "height": "32", "resolution": "64"}
    out = bucket(tmp_path, images, replace(DIGITS, crop="random", crop_variants=3, flip=True))
    assert out.report == [
        square
        | {"num_images": "2", "num_validation": "0", "merged_in": "0"}
        | {"mean_cropped_fraction": "0.1", "is_small": "0"},  # nothing, and 8 of 40 columns
        wide
        | {"num_images": "0", "num_validation": "1", "merged_in": "0"}
        | {"mean_cropped_fraction": "0.0", "is_small": "1"},  # nothing to train on
    ]


def test_a_row_carries_what_training_needs_to_know_of_the_sample(tmp_path: Path) -> None:
    target = image_row(70, 35, "a", repeats=3, weight=0.5, split="validation", index=0)
    reference = image_row(32, 64, "a", role="reference", index=2, content="other")
    rows = bucket(tmp_path, [target, reference]).rows
    assert rows[0] == {
        **{"sample_id": "a", "role": "target", "index": 0, "resolution": 64, "variant": 0},
        **{"content": "c-a.png", "path": "a.png"},
        **{"split": "validation", "repeats": 3, "weight": 0.5, "prior": False, "bucket": "64x32"},
        **{"resize_width": 64, "resize_height": 32, "crop_left": 0, "crop_top": 0},
        **{"width": 64, "height": 32, "flipped": False},
        **{"original_width": 70, "original_height": 35},
    }
    assert rows[1]["content"] == "other"
    assert rows[1]["index"] == 2
    assert (rows[1]["split"], rows[1]["repeats"], rows[1]["weight"]) == ("validation", 3, 0.5)


def test_a_changed_caption_changes_no_byte(tmp_path: Path) -> None:
    images = [image_row(32, 32, "a"), image_row(64, 32, "b")]
    before = bucket(tmp_path / "1", images).files
    edited = [row | {"captions": ["edited", "and added"]} for row in images]
    assert bucket(tmp_path / "2", edited).files == before


def test_pictures_that_are_all_too_small_are_one_sentence(tmp_path: Path) -> None:
    artifacts = write_inputs(tmp_path, [image_row(20, 20)], ["a"])
    message = r"none of 1 pictures fits a bucket: a\.png is left out because it is 20x20 pixels"
    with pytest.raises(ValueError, match=message):
        run(DIGITS, artifacts)
    assert not artifacts.buckets.exists()
    assert not artifacts.ledger.exists()


def test_captions_of_other_images_are_refused(tmp_path: Path) -> None:
    artifacts = write_inputs(tmp_path, [image_row(32, 32)], ["a", "gone"])
    with pytest.raises(ValueError, match="names 1 samples that are not in"):
        run(DIGITS, artifacts)


def test_a_batch_size_is_no_reason_to_bucket_again() -> None:
    assert {each.split(".")[0] for each in declared_keys(Params)} == {"data"}


def test_every_crop_that_may_be_asked_for_is_there() -> None:
    crop = Data.__dataclass_fields__["crop"]
    assert tuple(CORNERS) == crop.metadata["choices"]


def test_several_resolutions_are_several_rows_where_the_picture_fills_them(
    tmp_path: Path,
) -> None:
    params = replace(DIGITS, resolutions=(32, 96), min_side=32, max_side=192)
    sides = {"large": 200, "middle": 70, "small": 40}
    images = [image_row(side, side, name) for name, side in sides.items()]
    assert bucket(tmp_path, images, params).places("sample_id", "resolution", "bucket") == [
        ("large", 32, "32x32"),
        ("large", 64, "64x64"),
        ("large", 96, "96x96"),
        ("middle", 32, "32x32"),
        ("middle", 64, "64x64"),
        ("small", 64, "32x32"),  # it has the same at 32, which is one row
    ]


def test_another_resolution_takes_nothing_from_a_picture_at_the_first() -> None:
    alone = replace(PHOTOS, resolution=1024, min_side=256)
    more = replace(alone, resolutions=(512,))
    assert ladders(alone).of_target((700, 600)) == {1024: (640, 576)}
    assert ladders(more).of_target((700, 600)) == {512: (576, 448), 1024: (640, 576)}


def test_a_picture_that_fills_no_resolution_is_at_the_smallest_one() -> None:
    params = replace(PHOTOS, resolution=1024, resolutions=(512, 768), min_side=256)
    assert ladders(params).of_target((500, 400)) == {512: (448, 384)}
    assert ladders(params).of_target((255, 400)) == {}


def test_enlarging_is_for_the_first_resolution_alone() -> None:
    params = replace(ENLARGED, resolution=512, resolutions=(1024,), min_side=256)
    assert ladders(params).of_target((300, 300)) == {512: (512, 512)}
    assert ladders(params).of_target((1500, 1500)) == {512: (512, 512), 1024: (1024, 1024)}


def test_two_resolutions_with_one_bucket_keep_the_row_of_the_first() -> None:
    params = replace(DIGITS, resolution=96, resolutions=(64,), max_side=64)
    assert ladders(params).of_target((64, 64)) == {96: (64, 64)}
